"""Draws the sample photos of the demo, and copies in a few that are free: `python -m tools.draw_samples`.

Drawn ones are the same every time. The others are in the public domain or CC0 and ship inside scikit-image; what each
is, and under which licence, stands in serve/demo/samples/LICENCES.md.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import drawn

FOLDER = Path(__file__).parents[1] / "serve" / "demo" / "samples"
SIZE = (400, 300)
SCALE = 3  # drawn so much larger, then reduced: smooth edges
Colour = tuple[int, int, int]

GOLF_BALLS = [(3, (0, 0, 640, 480)), (4, (160, 90, 560, 390)), (5, (60, 60, 620, 480)), (6, (130, 40, 610, 400))]
PARACHUTES: list[tuple[int, float, float, float, Colour, Colour]] = [
    (1, 0.50, 0.33, 0.235, (206, 56, 48), (246, 240, 228)),
    (2, 0.42, 0.36, 0.24, (32, 96, 172), (248, 198, 60)),
    (3, 0.56, 0.34, 0.22, (44, 132, 84), (238, 236, 230)),
    (4, 0.48, 0.34, 0.20, (224, 118, 36), (72, 58, 128)),
]
CHURCHES: list[tuple[int, float, float, Colour, Colour]] = [
    (11, 0.36, 1.00, (236, 232, 222), (92, 70, 62)),
    (12, 0.58, 1.12, (196, 168, 132), (74, 82, 96)),
    (13, 0.44, 0.88, (178, 98, 74), (66, 62, 66)),
    (14, 0.62, 0.96, (226, 214, 182), (126, 62, 48)),
]
FREE = {
    "cat-1": ("chelsea", (0, 0, 451, 300)),
    "cat-2": ("chelsea", (40, 0, 320, 210)),
    "coffee-1": ("coffee", (0, 0, 600, 400)),
    "coffee-2": ("coffee", (90, 10, 470, 295)),
    "rocket-1": ("rocket", (0, 0, 640, 427)),
    "rocket-2": ("rocket", (180, 90, 560, 375)),
    "galaxies-1": ("hubble_deep_field", (0, 0, 500, 375)),
    "galaxies-2": ("hubble_deep_field", (450, 400, 950, 775)),
    "bricks-1": ("brick", (0, 0, 512, 384)),
    "bricks-2": ("brick", (60, 180, 460, 480)),
    "gravel-1": ("gravel", (0, 0, 512, 384)),
    "gravel-2": ("gravel", (140, 200, 510, 477)),
}


def main() -> None:
    """Write every sample."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number, (seed, box) in enumerate(GOLF_BALLS, 1):
        ball = drawn.golf_ball(seed).crop(box)
        _save(ImageOps.mirror(ball) if number % 2 == 0 else ball, f"golf-ball-{number}")
    for number, parachute in enumerate(PARACHUTES, 1):
        _save(_parachute(*parachute), f"parachute-{number}")
    for number, church in enumerate(CHURCHES, 1):
        _save(_church(*church), f"church-{number}")
    _save_free()


def _save_free() -> None:
    from skimage import data

    for name, (source, box) in FREE.items():
        _save(Image.fromarray(getattr(data, source)()).convert("RGB").crop(box), name)


def _save(picture: Image.Image, name: str) -> None:
    picture.resize(SIZE, Image.Resampling.LANCZOS).save(FOLDER / f"{name}.jpg", quality=82, optimize=True)


def _parachute(seed: int, x: float, y: float, radius: float, first: Colour, second: Colour) -> Image.Image:
    """A round canopy of striped gores over a sky, its lines, and who hangs on them."""
    picture = _sky(seed)
    width, height = picture.size
    draw = ImageDraw.Draw(picture)
    cx, cy, r = x * width, y * height, radius * width
    person = (cx + r * 0.04, cy + r * 1.28)
    edges = [-1.0, -0.80, -0.48, -0.16, 0.16, 0.48, 0.80, 1.0]
    for edge in edges:
        draw.line([(cx + edge * r, cy + 0.10 * r * (1 - edge**2)), person], fill=(70, 74, 84), width=SCALE)
    for gore, (left, right) in enumerate(pairwise(edges)):
        draw.polygon(_gore(cx, cy, r, left, right), fill=_shaded(second if gore % 2 else first, (left + right) / 2))
    px, py = person
    draw.ellipse([px - r * 0.045, py - r * 0.02, px + r * 0.045, py + r * 0.07], fill=(42, 44, 56))
    draw.rounded_rectangle([px - r * 0.06, py + r * 0.06, px + r * 0.06, py + r * 0.26], r * 0.03, fill=(52, 56, 74))
    for side in (-1, 1):
        draw.line([(px, py + r * 0.24), (px + side * r * 0.05, py + r * 0.42)], fill=(40, 42, 54), width=3 * SCALE)
    return _photographed(picture, seed)


def _gore(cx: float, cy: float, r: float, left: float, right: float) -> list[tuple[float, float]]:
    """One stripe of the canopy: two meridians of a dome, and a hem that billows."""
    down = np.linspace(0, np.pi / 2, 24)

    def meridian(edge: float) -> list[tuple[float, float]]:
        sag = 0.10 * r * (1 - edge**2)
        return [(cx + edge * r * np.sin(a), cy - 0.78 * r * np.cos(a) + sag * np.sin(a)) for a in down]

    hem = [
        (cx + (left + (right - left) * t) * r, cy + 0.10 * r * (1 - (left + (right - left) * t) ** 2) - b)
        for t, b in ((0.25, 0.035 * r), (0.5, 0.05 * r), (0.75, 0.035 * r))
    ]
    return [*meridian(left), *hem, *reversed(meridian(right))]


def _church(seed: int, x: float, scale: float, wall: Colour, roof: Colour) -> Image.Image:
    """A village church on a meadow: nave, gabled roof, steeple with a cross, arched windows and a door."""
    picture = _sky(seed)
    width, height = picture.size
    ground = int(height * 0.80)
    _meadow(picture, ground, seed)
    draw = ImageDraw.Draw(picture)
    unit = width * 0.1 * scale
    tower = x * width
    away = 1 if x < 0.5 else -1  # the nave lies on the side with room
    base = ground + 0.25 * unit

    def box(left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        xs = sorted((tower + away * left * unit, tower + away * right * unit))
        draw.rectangle([xs[0], base - top * unit, xs[1], base - bottom * unit], fill=fill)

    def corners(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(tower + away * px * unit, base - py * unit) for px, py in points]

    box(0.7, 2.1, 4.2, 0, _shaded(wall, 0.55))
    draw.polygon(corners((0.5, 2.1), (1.0, 3.4), (3.9, 3.4), (4.45, 2.1)), fill=roof)
    box(-0.75, 3.6, 0.8, 0, wall)
    draw.polygon(corners((-0.95, 3.6), (0.02, 6.1), (1.0, 3.6)), fill=_shaded(roof, 0.4))
    draw.line(corners((0.02, 6.05), (0.02, 6.75)), fill=(54, 48, 44), width=2 * SCALE)
    draw.line(corners((-0.2, 6.5), (0.24, 6.5)), fill=(54, 48, 44), width=2 * SCALE)
    for left in (1.25, 2.15, 3.05):
        _arch(draw, corners((left, 1.6), (left + 0.5, 0.5)), (58, 72, 96))
    _arch(draw, corners((-0.18, 3.2), (0.24, 2.4)), (58, 62, 76))
    _arch(draw, corners((-0.28, 1.25), (0.34, 0)), (86, 56, 38))
    return _photographed(picture, seed)


def _arch(draw: ImageDraw.ImageDraw, corners: list[tuple[float, float]], fill: Colour) -> None:
    (x0, top), (x1, bottom) = corners
    left, right = sorted((x0, x1))
    radius = (right - left) / 2
    draw.rectangle([left, top + radius, right, bottom], fill=fill)
    draw.ellipse([left, top, right, top + 2 * radius], fill=fill)


def _sky(seed: int) -> Image.Image:
    width, height = SIZE[0] * SCALE, SIZE[1] * SCALE
    down = np.linspace(0, 1, height)[:, None, None]
    blue = np.array([92, 148, 214]) * (1 - down) + np.array([196, 220, 240]) * down
    cover = np.clip(_clouds(seed, width, height) - 0.52, 0, 0.3)[..., None] * 2.6
    return Image.fromarray((blue * (1 - cover) + 250 * cover).clip(0, 255).astype(np.uint8))


def _clouds(seed: int, width: int, height: int) -> np.ndarray:
    """Soft noise in 0..1, float (height, width), wider than high."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for octave, weight in ((4, 0.55), (9, 0.3), (20, 0.15)):
        grid = Image.fromarray((random.random((octave, octave)) * 255).astype(np.uint8))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), float) / 255
    return total


def _meadow(picture: Image.Image, ground: int, seed: int) -> None:
    width, height = picture.size
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 256, (height - ground, width), dtype=np.uint8))
    blades = np.asarray(noise.filter(ImageFilter.GaussianBlur(2)), float)[..., None] - 127
    green = np.array([92, 138, 62]) + blades * np.array([0.7, 0.9, 0.5])
    picture.paste(Image.fromarray(green.clip(0, 255).astype(np.uint8)), (0, ground))


def _shaded(colour: Colour, side: float) -> Colour:
    """Darker towards `side` 1, lighter towards -1: the light comes from the left."""
    red, green, blue = (int(min(255, max(0, channel * (1 - 0.22 * side)))) for channel in colour)
    return red, green, blue


def _photographed(picture: Image.Image, seed: int) -> Image.Image:
    """Reduced, with the softness and the grain of a lens and a sensor."""
    small = picture.resize(SIZE, Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.5))
    grain = np.random.default_rng(seed).normal(size=(SIZE[1], SIZE[0], 1)) * 4
    return Image.fromarray((np.asarray(small, float) + grain).clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
