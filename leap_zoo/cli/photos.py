"""The photos that a command was given: each through the model, and what to say about those that were skipped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from leap_zoo.cli.output import complain

if TYPE_CHECKING:
    from leap_zoo.folders import Found, Row
    from leap_zoo.model import Model


def each_photo(
    model: Model,
    found: Found,
    output: str,
    one: Callable[[Row, str], None],
    rows: list[dict[str, Any]],
    *,
    prints: bool,
) -> dict[str, Any]:
    """Call `one` on each photo's row of an output; report what is bad on stderr and in `rows`. Returns `counts`.

    prints: whether `one` writes to stdout, where a progress bar on the same terminal would be in the way.
    """
    from leap_zoo.errors import ImageError
    from leap_zoo.folders import answers, name_of
    from leap_zoo.progress import Progress

    for name, error in found.bad.items():
        report_bad(name, error)
        rows.append({"photo": name, "error": error})
    read = 0
    with Progress(len(found.photos), shown=not (prints and sys.stdout.isatty())) as progress:
        for photo, answer in zip(found.photos, answers(model, _sources(found.photos), output), strict=True):
            if isinstance(answer, ImageError):
                found.refuse(photo, str(answer))
                progress.clear()
                report_bad(name_of(photo), str(answer))
                rows.append({"photo": name_of(photo), "error": str(answer)})
            else:
                read += 1
                one(answer, name_of(photo))
            progress.step()
    return counts(read, found.skipped)


def counts(read: int, skipped: Mapping[str, int]) -> dict[str, Any]:
    """How many photos were read, and what was skipped by reason, for --json."""
    return {"read": read, "skipped": dict(sorted(skipped.items()))}


def report_counts(counted: Mapping[str, Any]) -> None:
    """The same as one line on stderr, for people."""
    skipped = ", ".join(f"{reason.replace('_', ' ')} ({count})" for reason, count in counted["skipped"].items())
    complain(f"photos read: {counted['read']}; skipped: {skipped or 'nothing'}")


def report_bad(name: str, error: str) -> None:
    """One line on stderr about a photo or a folder that is skipped."""
    complain(f"{name}: {error}")


def _sources(photos: Iterable[str]) -> Iterator[str | BinaryIO]:
    for photo in photos:
        yield sys.stdin.buffer if photo == "-" else photo
