"""A photo of one of the student's classes, drawn by code: a golf ball on a lawn."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

WIDTH, HEIGHT = 640, 480
CENTRE, RADIUS = (330, 270), 140
DIMPLES, DIMPLE = 420, 0.082  # how many, and their angular radius on the ball
LIGHT = np.array([-0.45, -0.65, 0.6])


def golf_ball(seed: int = 3) -> Image.Image:
    """RGB, 640 x 480; the same picture for the same seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    dx, dy = (x - CENTRE[0]) / RADIUS, (y - CENTRE[1]) / RADIUS
    inside = np.clip((1 - np.hypot(dx, dy)) * RADIUS / 2, 0, 1)[..., None]  # soft edge
    picture = _lawn(random, x, y) * (1 - inside) + _ball(dx, dy) * inside
    noisy = np.clip(picture + random.normal(size=picture.shape) * 3, 0, 255).astype(np.uint8)
    return Image.fromarray(noisy).filter(ImageFilter.GaussianBlur(0.6))


def _lawn(random: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    noise = random.normal(size=(HEIGHT, WIDTH))
    noise = (noise - noise.min()) / np.ptp(noise) * 255
    blades = np.asarray(Image.fromarray(noise.astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.2)), float)
    blades = (blades - blades.mean()) / blades.std()
    green = np.stack([60 + 18 * blades, 120 + 26 * blades, 40 + 12 * blades], -1)
    shadow = np.exp(-1.5 * (((x - CENTRE[0] - 60) / 190) ** 2 + ((y - CENTRE[1] - 120) / 55) ** 2))
    return green * (0.75 + 0.35 * y / HEIGHT)[..., None] * (1 - 0.6 * shadow[..., None])


def _ball(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    points = np.stack([dx, dy, np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))], -1)  # on the unit sphere, towards us
    normals = points.copy()
    for dimple in _spread(DIMPLES):
        if dimple[2] < -0.1:
            continue
        near = np.clip((points @ dimple - np.cos(DIMPLE)) / (1 - np.cos(DIMPLE)), 0, 1)
        across = points - dimple * (points @ dimple)[..., None]
        normals[..., :2] += across[..., :2] * (9 * near * (1 - near))[..., None]
    light = LIGHT / np.linalg.norm(LIGHT)
    shade = np.clip(normals @ light / (np.linalg.norm(normals, axis=-1) + 1e-9), 0, 1)
    return (55 + 200 * shade**0.8)[..., None] * np.array([1, 1, 0.98])


def _spread(count: int) -> np.ndarray:
    """Points (count, 3) spread evenly over the unit sphere (a Fibonacci lattice), tilted a little."""
    index = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * index / count), np.pi * (1 + 5**0.5) * index
    points = np.stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)], -1)
    tilt = np.array([[1, 0, 0], [0, np.cos(0.4), -np.sin(0.4)], [0, np.sin(0.4), np.cos(0.4)]])
    return points @ tilt.T


if __name__ == "__main__":  # how docs/images/golf-ball.jpg was made
    golf_ball().save("docs/images/golf-ball.jpg", quality=90)
