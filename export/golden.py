"""The golden file that `leap_zoo.verify` reads: a model's outputs where it was published, for pictures drawn by code.

Such pictures have no license to respect, and they are the same everywhere.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict
from PIL import Image, ImageDraw

from leap_zoo.card import Artifact, File, Golden

COUNT = 4

# Largest absolute difference, on L2-normalized embeddings and on softmax scores. fp32 differs between CPUs only by the
# order of sums (about 1e-5). int8 accumulates exactly, so only rounding at the edges of a quantization step remains,
# but for OpenVINO on x86 without VNNI, whose 16-bit sums of products overflow. Softmax of few classes magnifies it:
# leap-nano differs by .0503 between OpenVINO on an Intel CPU with AMX and on an AMD one. A collapsed model differs by
# .25 or more in some element.
TOLERANCE: dict[str, dict[str, float]] = {
    "fp32": {"default": 1e-3},
    "fp16": {"default": 1e-2},
    "int8": {"default": 0.15, "vnni": 0.08, "dotprod": 0.05},
}


def draw(size: int) -> npt.NDArray[np.uint8]:
    """Uint8 (COUNT, size, size, 3): smooth color fields with a few shapes on them, all different."""
    return np.stack([_draw(size, seed) for seed in range(COUNT)])


def golden_bytes(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """The content of a golden file; the same arrays give the same bytes.

    arrays: `image`, uint8 (N, H, W, 3), preprocessed; `<file>/<output>`, float32 (N, D), as the graph returned it.
    """
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def golden_file(content: bytes, artifacts: Iterable[Artifact]) -> Golden:
    """The card's entry for the golden file of these artifacts."""
    file = asdict(file_of("golden.npz", content))
    return Golden(**file, tolerance={artifact.precision: TOLERANCE[artifact.precision] for artifact in artifacts})


def file_of(name: str, content: bytes) -> File:
    """The card's entry for a file."""
    return File(file=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


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
