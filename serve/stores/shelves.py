"""Where galleries lie by name: the interface of a folder (`folder_shelf`) and of a Qdrant server (`qdrant_shelf`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from leap_zoo.errors import InvalidGallery
from leap_zoo.gallery import Gallery, Kind
from serve.problems import Refused

logger = logging.getLogger("leap_zoo.serve")


@dataclass(frozen=True)
class About:
    """What a gallery is: its name, whose embeddings it holds, how many, their bytes on the disk (None: elsewhere)."""

    name: str
    kind: Kind
    items: int
    bytes: int | None


class Shelf(Protocol):
    """Galleries by name. Whoever makes or drops one holds its turn. Methods raise InvalidGallery, Refused, OSError."""

    attempts: int  # at reading one that others may replace at that moment

    def names(self) -> list[str]:
        """Sorted."""

    def about(self, name: str) -> About | None:
        """What it is, as cheaply as can be; None when there is none."""

    def open(self, name: str) -> Gallery | None:
        """Its newest state; None when there is none."""

    def make(self, name: str, kind: Kind) -> Gallery:
        """A new, empty one, which is there for good."""

    def drop(self, name: str) -> bool:
        """Take it away, whatever state it is in; whether there was one. Searches that run may end or fail."""

    def used(self) -> int:
        """Bytes on the disk of all together; 0 where they lie elsewhere."""

    def explain(self, name: str, error: InvalidGallery) -> Refused:
        """What a client is told about an error that it did not cause."""

    def close(self) -> None:
        """Let go of connections."""


def unavailable(error: Exception) -> Refused:
    """The place cannot be read or written just now; the log says why."""
    logger.error("what clients leave here cannot be read or written: %s", error)
    detail = "What is kept here cannot be read or written just now. Try again later."
    return Refused(503, "store_unavailable", detail, {"retry-after": "10"})
