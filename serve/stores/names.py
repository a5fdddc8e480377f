"""Names that clients choose, and what they are called on a disk or on a server."""

from __future__ import annotations

import re

import msgspec

from leap_zoo.card import Name
from serve.problems import Refused

_STEM = re.compile(r"\A(?:[a-z0-9-]|_[a-z0_])+\Z")
_ESCAPED = {"_": "__", ".": "_0"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPED.items()}


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
