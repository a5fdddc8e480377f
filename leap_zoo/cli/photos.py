"""The photos that a command was given: which they are, and what to do about bad ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from leap_zoo.cli.output import complain

if TYPE_CHECKING:
    from leap_zoo.folders import Row
    from leap_zoo.model import Model


def expand(arguments: Iterable[str]) -> list[str]:
    """The photos that the arguments mean: files as they are, folders as the photos below them, `-` as stdin."""
    from leap_zoo.folders import photos_below

    photos = []
    for argument in arguments:
        photos += photos_below(argument) if argument != "-" and os.path.isdir(argument) else [argument]
    return photos


def each_photo(
    model: Model,
    photos: Sequence[str],
    output: str,
    one: Callable[[Row, str], None],
    rows: list[dict[str, Any]],
    *,
    prints: bool,
) -> int:
    """Call `one` on each photo's row of an output; report bad photos on stderr and in `rows`. Returns how many.

    prints: whether `one` writes to stdout, where a progress bar on the same terminal would be in the way.
    """
    from leap_zoo.errors import ImageError
    from leap_zoo.folders import answers, printable
    from leap_zoo.progress import Progress

    bad = 0
    with Progress(len(photos), shown=not (prints and sys.stdout.isatty())) as progress:
        for photo, answer in zip(photos, answers(model, _sources(photos), output), strict=True):
            name = printable(photo)
            if isinstance(answer, ImageError):
                bad += 1
                progress.clear()
                report_bad(name, str(answer))
                rows.append({"photo": name, "error": str(answer)})
            else:
                one(answer, name)
            progress.step()
    return bad


def report_bad(name: str, error: str) -> None:
    """One line on stderr about a photo that is skipped."""
    complain(f"{name}: {error}")


def _sources(photos: Iterable[str]) -> Iterator[str | bytes]:
    from leap_zoo.preprocess import MAX_BYTES

    for photo in photos:
        yield sys.stdin.buffer.read(MAX_BYTES + 1) if photo == "-" else photo
