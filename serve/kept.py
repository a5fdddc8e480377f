"""What clients may store: how much, and under which names."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

import msgspec

from leap_zoo.card import Name
from serve.problems import Refused

logger = logging.getLogger("leap_zoo.serve")

NAME = {"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "minLength": 1, "maxLength": 64}
"""A name in a path, for the schema; `checked_name` decides."""

_STEM = re.compile(r"\A(?:[a-z0-9-]|_[a-z0_])+\Z")
_ESCAPED = {"_": "__", ".": "_0"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPED.items()}


@dataclass(frozen=True)
class Limits:
    """Limits on what is stored. A request that would exceed one is refused, and nothing that is stored is lost.

    items: per gallery. gallery_bytes: of all galleries in total (in a folder; a Qdrant server has its own limits).
    id_characters: of an item's id; short enough for a table of ids. fit_photos: of one head. exports: at a time; each
    holds a temporary file until its client has read it. conditions: of a search's `where`.
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
    """The name. Raises Refused (422) unless it is 1 to 64 letters, digits, `_`, `-`, `.` and starts with none of -."""
    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        detail = "A name has 1 to 64 letters, digits, underscores, hyphens and dots, and does not start with - or ."
        raise Refused(422, "invalid_name", detail) from error


def stem_of(name: str) -> str:
    """A name encoded as lower-case letters, digits, `-` and `_`; different names have different encodings.

    A capital letter gets `_` before it, so that `Cats` and `cats` differ on case-insensitive disks, too.
    """
    return "".join(_ESCAPED.get(one) or (f"_{one.lower()}" if one.isupper() else one) for one in checked_name(name))


def name_of(stem: str) -> str | None:
    """The name that has this stem; None if `stem_of` did not make it."""
    if not _STEM.match(stem):
        return None
    name = re.sub(r"_(.)", lambda found: _PLAIN.get(found[0]) or found[1].upper(), stem)
    try:
        return name if stem_of(name) == stem else None
    except Refused:
        return None


def unavailable(error: Exception) -> Refused:
    """The refusal while stored data cannot be read or written; the reason is logged."""
    logger.error("stored data cannot be read or written: %s", error)
    detail = "Stored data cannot be read or written at the moment. Try again later."
    return Refused(503, "store_unavailable", detail, {"retry-after": "10"})
