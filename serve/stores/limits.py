"""How much clients may leave here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of what is kept. Whatever would pass one is refused, and nothing that is kept is lost for it.

    items: per gallery. gallery_bytes: of all galleries together (in a folder; a Qdrant server has limits of its own).
    id_characters: of an item's id; short enough for a table of ids. fit_photos: of one head. exports: at a time, as
    each holds a temporary file for as long as its client takes to read it.
    """

    galleries: int = 64
    items: int = 100_000
    gallery_bytes: int = 4 * 2**30
    id_characters: int = 256
    heads: int = 64
    head_bytes: int = 4 * 2**20
    fit_photos: int = 500
    exports: int = 4
