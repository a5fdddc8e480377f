"""What is kept of one visitor while the page is open, in memory and bounded; no visitor ever gets another's."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leap_zoo import CustomHead

MAX_PHOTOS = 48  # in the visitor's gallery
MAX_CLASSES = 6
MAX_PHOTOS_PER_CLASS = 24
MAX_VISITORS = 500  # whose state is held; the longest idle one is forgotten first


@dataclass(frozen=True, eq=False)
class Kept:
    """A photo of a gallery: its name, its thumbnail (a data: address), and its embedding (D,) in each space."""

    name: str
    thumbnail: str
    vectors: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Member:
    """A photo of one of the visitor's classes: its thumbnail, and where its file lies until it is fitted or deleted."""

    name: str
    thumbnail: str
    path: str

    @property
    def key(self) -> str:
        """What the page calls it: the same after others have gone, and no path."""
        return f"{zlib.crc32(self.path.encode()):08x}"


class Visitor:
    """One open page: the visitor's gallery, the photos of the visitor's classes by slot, and the head fitted on them.

    No dataclass: Gradio would copy the fields of one into the page's configuration.
    """

    def __init__(self) -> None:
        self.gallery: list[Kept] = []
        self.classes: list[list[Member]] = [[] for _ in range(MAX_CLASSES)]
        self.head: CustomHead | None = None
