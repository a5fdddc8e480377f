"""The photos that a command was given: which they are, and what to do about bad ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from leap_zoo.errors import ImageError, InvalidArgument, short

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


def expand(arguments: Iterable[str]) -> Iterable[str]:
    """The photos that the arguments mean: files as they are, folders as the photos below them, `-` as stdin."""
    for argument in arguments:
        if argument == "-" or not os.path.isdir(argument):
            yield argument
            continue
        below = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(argument)
            for name in names
            if Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith(".")
        ]
        if not below:
            raise InvalidArgument(f"no photos in the folder {short(argument)}: give one that holds .jpg, .png, ...")
        yield from sorted(below)


def each_photo(
    photos: Sequence[str], one: Callable[[str | bytes, str], None], rows: list[dict[str, Any]], *, prints: bool
) -> int:
    """Call `one` on each photo; report bad ones on stderr and in `rows`, and go on. Returns how many were bad.

    prints: whether `one` writes to stdout, where a progress bar on the same terminal would be in the way.
    """
    from leap_zoo.preprocess import MAX_BYTES
    from leap_zoo.progress import Progress

    bad = 0
    with Progress(len(photos), shown=not (prints and sys.stdout.isatty())) as progress:
        for photo in photos:
            name = os.fsencode(photo).decode("utf-8", "replace")  # file names need not be valid UTF-8
            try:
                one(sys.stdin.buffer.read(MAX_BYTES + 1) if photo == "-" else photo, name)
            except ImageError as error:
                bad += 1
                progress.clear()
                print(f"leap-zoo: {name}: {error}", file=sys.stderr)
                rows.append({"photo": name, "error": str(error)})
            progress.step()
    return bad
