"""The state of one visitor while the page is open, in memory and bounded; visitors never see each other's."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from leap_zoo import CustomHead

MAX_PHOTOS = 48  # in the visitor's gallery, and as many in the visitor's classes
MAX_VISITORS = 500  # with state in memory; the longest idle one is dropped first


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo, which is at `path` until it is deleted.

    label: its class, among the visitor's classes. vector: its embedding, a unit vector (D,), in a gallery.
    """

    name: str
    path: str
    thumbnail: Image.Image | str
    label: str = ""
    vector: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


class Visitor:
    """One open page: the visitor's gallery, the photos of the visitor's classes, and the head fitted to them.

    Not a dataclass: Gradio would copy its fields into the page's configuration.
    """

    def __init__(self) -> None:
        self.gallery: list[Photo] = []
        self.members: list[Photo] = []
        self.head: CustomHead | None = None
