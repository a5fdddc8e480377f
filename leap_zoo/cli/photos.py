"""Run a command's photos through the model, and report the ones that were skipped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from leap_zoo.cli.output import about, complain, print_json, say
from leap_zoo.folders import Done, Found, name_of, readable
from leap_zoo.model import Model, Row
from leap_zoo.progress import Progress

Answer = Callable[[Row], tuple[dict[str, Any], Iterable[str]]]


def sources(found: Found) -> Iterator[str | BinaryIO]:
    """The sources of the photos; `-` is stdin."""
    for photo in found.photos:
        yield sys.stdin.buffer if photo == "-" else photo


@contextmanager
def reporting(found: Found, rows: list[dict[str, Any]], *, prints: bool = False) -> Iterator[Done]:
    """Report progress: in `with reporting(found, rows) as done:`, call `done` for each photo.

    Draws a bar; unreadable photos go to stderr and into `rows`.

    prints: whether answers are printed on stdout, where a bar on the same terminal would be in the way.
    """

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


def answer_each(
    options: argparse.Namespace, found: Found, model: Model, output: str, answer: Answer, **said: Any
) -> int:
    """Print the answer for each photo, from its row (D,) of a graph output; returns the exit code.

    answer: row -> fields for --json, and lines of text. said: fields of the whole document.
    """

    rows: list[dict[str, Any]] = []
    read = 0
    with reporting(found, rows, prints=not options.json) as done:
        for number, row in readable(model, found.photos, sources(found), output, found, done):
            read += 1
            name = name_of(found.photos[number])
            fields, lines = answer(row)
            if options.json:
                rows.append({"photo": name} | fields)
                continue
            if len(found.photos) > 1:
                say(name)
            for line in lines:
                say(line)
    sum_up(options, read, found.skipped, about(model) | said, {"photos": rows}, walked=bool(found.folders))
    return 2 if found.bad else 0


def sum_up(
    options: argparse.Namespace,
    read: int,
    skipped: Mapping[str, int],
    said: Mapping[str, Any],
    rest: Mapping[str, Any],
    *,
    walked: bool = True,
) -> None:
    """Print the --json document; or, if folders were searched, the numbers of photos read and skipped.

    said, rest: fields of the document before and after these numbers.
    """
    skipped = dict(sorted(skipped.items()))
    if options.json:
        print_json({**said, "read": read, "skipped": skipped, **rest})
    elif walked:
        reasons = ", ".join(f"{reason.replace('_', ' ')} ({count})" for reason, count in skipped.items())
        complain(f"photos read: {read}; skipped: {reasons or 'nothing'}")
