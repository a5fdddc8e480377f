"""The state of one visitor while the page is open, in memory and bounded; visitors never see each other's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from leap_zoo import CustomHead

MAX_PHOTOS = 48  # in the visitor's gallery, and as many in the visitor's classes
MAX_VISITORS = 500  # with state in memory; the longest idle one is dropped first


@dataclass(frozen=True, eq=False)
class Kept:
    """A photo of a gallery: its name, its thumbnail, and its embedding, a unit vector (D,)."""

    name: str
    thumbnail: Image.Image | str
    vector: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Member:
    """A photo of one of the visitor's classes; its file is at `path` until it is deleted."""

    label: str
    name: str
    thumbnail: Image.Image | str
    path: str


class Visitor:
    """One open page: the visitor's gallery, the photos of the visitor's classes, and the head fitted to them.

    Not a dataclass: Gradio would copy its fields into the page's configuration.
    """

    def __init__(self) -> None:
        self.gallery: list[Kept] = []
        self.members: list[Member] = []
        self.head: CustomHead | None = None
