"""Photos for golden outputs, drawn by code: anybody may publish them, and they are the same everywhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

COUNT = 4


def draw(size: int) -> npt.NDArray[np.uint8]:
    """Uint8 (COUNT, size, size, 3): smooth colour fields with a few shapes on them, none like another."""
    return np.stack([_draw(size, seed) for seed in range(COUNT)])


def _draw(size: int, seed: int) -> npt.NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = (int(v) for v in random.integers(0, size, 2))
        reach = int(random.integers(size // 10, size // 3))
        colour = tuple(int(v) for v in random.integers(0, 256, 3))
        shape = canvas.ellipse if random.random() < 0.5 else canvas.rectangle
        shape((x - reach, y - reach, x + reach, y + reach), fill=colour)
    return np.asarray(image, dtype=np.uint8)
