"""What clients may store: how much, and under which names; and the refusal if the disk fails."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from serve.problems import Refused

logger = logging.getLogger("leap_zoo.serve")

# A name in a path, for the schema; `checked_name` decides.
NAME = {"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "minLength": 1, "maxLength": 64}
_NAME = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_STEM = re.compile(r"\A(?:[a-z0-9-]|_[a-z0_])+\Z")
_ESCAPED = {"_": "__", ".": "_0"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPED.items()}


@dataclass(frozen=True)
class Limits:
    """Limits on what is stored. A request that would exceed one is refused, and nothing that is stored is lost.

    items: per gallery. gallery_bytes: of all galleries in total (in a folder; a Qdrant server has its own limits).
    id_characters: of an item's id; short enough for a table of ids. fit_photos: of one head.
    """

    galleries: int = 64
    items: int = 100_000
    gallery_bytes: int = 4 * 2**30
    id_characters: int = 256
    heads: int = 64
    head_bytes: int = 4 * 2**20
    fit_photos: int = 500


def checked_name(name: str) -> str:
    """The name. Raises Refused (422) unless it is 1 to 64 letters, digits, `_`, `-`, `.` and starts with none of -."""
    if not _NAME.match(name):
        detail = "A name has 1 to 64 letters, digits, underscores, hyphens and dots, and does not start with - or ."
        raise Refused("invalid_name", detail)
    return name


def stem_of(name: str) -> str:
    """A name encoded as lower-case letters, digits, `-` and `_`; different names have different encodings.

    A capital letter gets `_` before it, so that `Cats` and `cats` differ on case-insensitive disks, too. Raises as
    `checked_name` does.
    """
    return "".join(_ESCAPED.get(one) or (f"_{one.lower()}" if one.isupper() else one) for one in checked_name(name))


def name_of(stem: str) -> str | None:
    """The name that has this stem; None if `stem_of` did not make it."""
    name = re.sub(r"_(.)", lambda found: _PLAIN.get(found[0]) or found[1].upper(), stem)
    return name if _STEM.match(stem) and _NAME.match(name) and stem_of(name) == stem else None


def bytes_below(folder: Path) -> int:
    """The size of all files below a folder in total."""
    total = 0
    for parent, _, names in os.walk(folder):  # unlike Path.rglob, ignores a folder that is deleted meanwhile
        for name in names:
            with contextlib.suppress(OSError):  # deleted meanwhile
                status = os.lstat(os.path.join(parent, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def unavailable(error: Exception) -> Refused:
    """The refusal while stored data cannot be read or written; the reason is logged."""
    logger.error("stored data cannot be read or written: %s", error)
    detail = "Stored data cannot be read or written at the moment. Try again later."
    return Refused("store_unavailable", detail)
