"""Corrupted versions of photos, made as they are read: noise, blur, JPEG and brightness.

The kinds and their strengths are those of severities 1, 3 and 5 of ImageNet-C (Hendrycks and Dietterich 2019), whose
photos have a short side of 224 to 256 pixels as ours have. The same photo is corrupted the same way everywhere.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from leap_zoo.preprocess import open_image

STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.18, 0.38),  # deviation of Gaussian noise, of 0..1
    "blur": (1, 3, 6),  # deviation of a Gaussian, in pixels
    "JPEG": (25, 15, 7),  # quality
    "brightness": (0.1, 0.3, 0.5),  # added to the value of HSV, of 0..1
}


@dataclass(frozen=True)
class Corrupted:
    """A photo that is corrupted when it is read: `kind` and `strength` are of STRENGTHS."""

    photo: Path
    kind: str
    strength: float

    @property
    def name(self) -> str:
        """Of the photo's file, and of what is done to it."""
        return f"{self.photo.name} {self.kind} {self.strength:g}"

    @property
    def identity(self) -> str:
        """The photo, its size and its time of change, and what is done to it."""
        known = self.photo.stat()
        return f"{self.photo.resolve()}:{known.st_size}:{known.st_mtime_ns}:{self.kind}:{self.strength:g}"

    def read(self) -> bytes:
        """The corrupted photo as a file. Raises ImageError, OSError."""
        file = io.BytesIO()
        corrupt(open_image(self.photo), self.kind, self.strength, seed=zlib.crc32(self.name.encode())).save(file, "BMP")
        return file.getvalue()

    def __str__(self) -> str:
        return self.name


def corrupt(photo: Image.Image, kind: str, strength: float, *, seed: int) -> Image.Image:
    """An RGB photo, corrupted; its size stays. seed: of the noise."""
    if kind == "blur":
        return photo.filter(ImageFilter.GaussianBlur(strength))
    if kind == "JPEG":
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=int(strength))
        return Image.open(file).convert("RGB")
    if kind == "brightness":
        hue, saturation, value = photo.convert("HSV").split()
        brighter = value.point([min(255, round(level + 255 * strength)) for level in range(256)])
        return Image.merge("HSV", (hue, saturation, brighter)).convert("RGB")
    pixels = np.asarray(photo, np.float32)
    noise = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(np.rint(pixels + 255 * strength * noise), 0, 255).astype(np.uint8))
