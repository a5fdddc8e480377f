"""Every error a user can cause. They form one family, and every message says how to fix the problem.

`except leap_zoo.LeapZooError` catches them all; `except leap_zoo.ImageError` catches problems with a photo.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any
from unicodedata import category


class LeapZooError(Exception):
    """The base class: any error caused by arguments, photos, cards or files.

    Its text is one line. Escape sequences in names are escaped, and passwords in URLs are masked.
    """

    def __str__(self) -> str:
        return masked(plain(super().__str__()))


class ImageError(LeapZooError):
    """Something is wrong with a photo, not with the model."""


class NotAnImage(ImageError):
    """The bytes are not a photo in a supported format."""


class UndecodableImage(ImageError):
    """The bytes start like a photo but cannot be decoded: truncated or damaged."""


class ImageTooLarge(ImageError):
    """Too many bytes, or too many pixels according to the header. Nothing was decoded."""


class UnreadableFile(ImageError):
    """The path of a photo does not lead to a readable regular file."""


class UnknownModel(LeapZooError):
    """None of the zoos that were searched lists this model."""


class UnknownHead(LeapZooError):
    """The model has no classification head with this name."""


class UnknownSpace(LeapZooError):
    """An embedding space is neither `student` nor `teacher`."""


class InvalidArgument(LeapZooError):
    """An argument or an environment variable has the wrong type, shape or range."""


class InvalidCard(LeapZooError):
    """A card.json or index.json violates the schema, or contradicts the file that it describes."""


class InvalidHead(LeapZooError):
    """A head file is damaged, or the head was fitted for another model."""


class ArtifactCorrupt(LeapZooError):
    """A file is missing, has the wrong size, or its sha256 is not the published one."""


class ArtifactRefused(LeapZooError):
    """The file is intact, but this runtime cannot load or run it."""


class NotPulled(LeapZooError):
    """The model was pulled, but this file of it was not."""


class DownloadFailed(LeapZooError):
    """A zoo's server cannot be reached, keeps failing, or sends something that cannot be trusted."""


class CacheUnusable(LeapZooError):
    """Pulled files cannot be stored: the disk is full, or LEAP_ZOO_HOME is not writable."""


class NotSigned(LeapZooError):
    """A model has no signature, or its signature does not match the given key and the card."""


class InvalidGallery(LeapZooError):
    """A gallery is missing or damaged, or contains embeddings from another model, revision or space."""


class ServiceRefused(LeapZooError):
    """A service rejected a request. `status` and `code` are those of its answer; the text is the service's."""

    def __init__(self, message: str, status: int = 400, code: str = "http_error") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ServiceFailed(LeapZooError):
    """A service cannot be reached, stays busy, fails, or sends an invalid answer."""


class MissingExtra(LeapZooError):
    """A feature needs a package that is not installed."""


def import_extra(module: str, extra: str) -> Any:
    """A module that comes with the optional dependencies `extra`. Raises MissingExtra."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{module} cannot be imported ({error}): pip install 'leap-zoo[{extra}]'") from error


def whole_number(value: Any, what: str, least: int = 1, most: int | None = None) -> int:
    """`value` as an int, if it is a whole number (Python's or NumPy's) from `least` to `most`; True and 1.0 are not.

    Raises InvalidArgument."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or (most is not None and number > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidArgument(f"{what} must be a whole number {allowed}, not {short(value)}")
    return number


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, and the known names (at most twelve).

    If several are equally near, the first in `known` is taken, so a default should come first.
    Returns for example `; did you mean 'leap-nano'? Known: leap-micro, leap-nano`, or "" if `known` is empty.
    """
    names = list(dict.fromkeys(known))
    if not names:
        return ""
    import difflib

    ratios = {one: difflib.SequenceMatcher(None, one.lower(), name[:200].lower()).ratio() for one in names}
    best = max(names, key=lambda one: ratios[one])
    guess = f"; did you mean {best!r}?" if ratios[best] >= 0.5 else "."
    listed = ", ".join(sorted(names)[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{guess} Known: {listed}"


_LOGIN = re.compile(r"(?<=://)(?:[^\s/?#@:]*:(?!\d+[/?#])\S*|[^\s/?#@]*)@")
_LOGIN_ALONE = re.compile(r"(?<=://)(?:[^/?#@:]*:(?!\d+[/?#]).*|[^/?#@]*)@", re.DOTALL)  # spaces are part of it


def short(text: object, limit: int = 80) -> str:
    """A user's string for an error message: quoted, on one line, at most `limit` characters, without passwords.

    A longer one is cut in the middle, because the end of a path says the most.
    """
    quoted = repr(_LOGIN_ALONE.sub("***@", str(text)))
    return quoted if len(quoted) <= limit else f"{quoted[: limit // 3 - 3]}...{quoted[-(limit - limit // 3) :]}"


def masked(text: str) -> str:
    """`text` with the logins in its URLs masked: `http://me:secret@host` -> `http://***@host`."""
    return _LOGIN.sub("***@", text)


def plain(text: object) -> str:
    """`text` as one line that is safe to print on a terminal: `\\x1b` for an escape, `\\n` for a line break."""
    line = str(text)
    if line.isprintable():
        return line
    escaped = (one if one.isprintable() or category(one) == "Zs" else ascii(one)[1:-1] for one in line)
    return "".join(escaped)


def first_line(error: Exception) -> str:
    """A short reason; for an OSError without the path, because the message already names it."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.splitlines()[0][:100]
