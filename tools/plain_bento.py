"""The peer of `tools.bench_serve`: the same model in a service as the documentation of BentoML writes one.

A process per core, Pillow images in, an array out. No limits, no extra metrics, no layer in front of BentoML's.
"""

from __future__ import annotations

import bentoml
import numpy as np
import numpy.typing as npt
from PIL import Image

import leap_zoo


@bentoml.service(name="plain", workers="cpu_count")
class Plain:
    """One method."""

    def __init__(self) -> None:
        self.model = leap_zoo.load(threads=1)

    @bentoml.api
    def embed(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """float32 (D,)."""
        return self.model.embed(image.convert("RGB"))
