"""What clients may keep here: how much, and under which names."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

import msgspec

from leap_zoo.card import Name
from serve.problems import Refused

logger = logging.getLogger("leap_zoo.serve")

NAME = {"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "minLength": 1, "maxLength": 64}
"""A name in a path, for the schema; `checked_name` has the last word."""

_STEM = re.compile(r"\A(?:[a-z0-9-]|_[a-z0_])+\Z")
_ESCAPED = {"_": "__", ".": "_0"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPED.items()}


@dataclass(frozen=True)
class Limits:
    """Bounds of what is kept. Whatever would pass one is refused, and nothing that is kept is lost for it.

    items: per gallery. gallery_bytes: of all galleries together (in a folder; a Qdrant server has limits of its own).
    id_characters: of an item's id; short enough for a table of ids. fit_photos: of one head. exports: at a time, as
    each holds a temporary file for as long as its client takes to read it. conditions: of a search's `where`.
    """

    galleries: int = 64
    items: int = 100_000
    gallery_bytes: int = 4 * 2**30
    id_characters: int = 256
    heads: int = 64
    head_bytes: int = 4 * 2**20
    fit_photos: int = 500
    exports: int = 4
    conditions: int = 8


def checked_name(name: str) -> str:
    """The name. Raises Refused (422) unless it is 1 to 64 letters, digits, `_`, `-` and `.`, the first none of -. ."""
    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        detail = "A name is 1 to 64 letters, digits, underscores, hyphens and dots, and begins with no hyphen or dot."
        raise Refused(422, "invalid_name", detail) from error


def stem_of(name: str) -> str:
    """A name as lower-case letters, digits, `-` and `_`; different for different names.

    A capital letter gets `_` before it, so that `Cats` and `cats` stay apart on disks that take them for the same.
    """
    return "".join(_ESCAPED.get(one) or (f"_{one.lower()}" if one.isupper() else one) for one in checked_name(name))


def name_of(stem: str) -> str | None:
    """The name that has this stem; None when it is not one of ours."""
    if not _STEM.match(stem):
        return None
    name = re.sub(r"_(.)", lambda found: _PLAIN.get(found[0]) or found[1].upper(), stem)
    try:
        return name if stem_of(name) == stem else None
    except Refused:
        return None


def unavailable(error: Exception) -> Refused:
    """The place cannot be read or written just now; the log says why."""
    logger.error("what clients leave here cannot be read or written: %s", error)
    detail = "What is kept here cannot be read or written just now. Try again later."
    return Refused(503, "store_unavailable", detail, {"retry-after": "10"})
