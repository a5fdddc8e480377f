"""The photos that a command was given: each through the model, and what to say about those that were skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from leap_zoo.cli.output import complain

if TYPE_CHECKING:
    from leap_zoo.folders import Done, Found


def sources(found: Found) -> Iterator[str | BinaryIO]:
    """Where the photos are read from: `-` is stdin."""
    for photo in found.photos:
        yield sys.stdin.buffer if photo == "-" else photo


@contextmanager
def reporting(found: Found, rows: list[dict[str, Any]], *, prints: bool = False) -> Iterator[Done]:
    """`with reporting(found, rows) as done:` call `done` for each photo. Draws a bar; what is bad goes on stderr and
    into `rows`.

    prints: whether photos are answered on stdout, where a bar on the same terminal would be in the way.
    """
    from leap_zoo.progress import Progress

    def refused(name: str, error: str) -> None:
        complain(f"{name}: {error}")
        rows.append({"photo": name, "error": error})

    for folder, why in found.bad.items():
        refused(folder, why)
    with Progress(len(found.photos), shown=not (prints and sys.stdout.isatty())) as progress:

        def done(name: str, error: str | None) -> None:
            if error is not None:
                progress.clear()
                refused(name, error)
            progress.step()

        yield done


def counts(read: int, skipped: Mapping[str, int]) -> dict[str, Any]:
    """How many photos were read, and what was skipped by reason, for --json."""
    return {"read": read, "skipped": dict(sorted(skipped.items()))}


def report_counts(counted: Mapping[str, Any]) -> None:
    """The same as one line on stderr, for people."""
    skipped = ", ".join(f"{reason.replace('_', ' ')} ({count})" for reason, count in counted["skipped"].items())
    complain(f"photos read: {counted['read']}; skipped: {skipped or 'nothing'}")
