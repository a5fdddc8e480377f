"""Run a command's photos through the model, and report the ones that were skipped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from leap_zoo.cli.output import about, complain, print_json, say
from leap_zoo.fitting import Fit
from leap_zoo.folders import Found, name_of, readable
from leap_zoo.model import Model, Row

Answer = Callable[[str, Row], tuple[dict[str, Any], Iterable[list[str]]]]


def sources(found: Found) -> Iterator[str | BinaryIO]:
    """The sources of the photos; `-` is stdin."""
    for photo in found.photos:
        yield sys.stdin.buffer if photo == "-" else photo


def answer_each(
    options: argparse.Namespace, found: Found, model: Model, output: str, answer: Answer, **said: Any
) -> int:
    """Print the answer for each photo, from its row (D,) of a graph output; returns the exit code.

    answer: name and row -> fields for --json, and lines of text, each a list of cells that a tab separates.
    said: fields of the whole document.
    """
    rows: list[dict[str, Any]] = []
    read = 0
    shown = options.json or not sys.stdout.isatty()  # a bar would be in the way of answers on the same terminal
    for number, row in readable(model, found.photos, sources(found), output, found, progress=shown):
        read += 1
        name = name_of(found.photos[number])
        fields, lines = answer(name, row)
        if options.json:
            rows.append({"photo": name} | fields)
            continue
        for cells in lines:
            say(*cells, sep="\t")
    place = {name_of(photo): number for number, photo in enumerate(found.photos)}
    rows = sorted(rows + refused(found), key=lambda row: place.get(row["photo"], -1))
    return sum_up(options, found, read, about(model) | said, {"photos": rows})


def refused(found: Found) -> list[dict[str, Any]]:
    """What could not be read and why, for --json."""
    return [{"photo": name, "error": why} for name, why in found.bad.items()]


def sum_up(
    options: argparse.Namespace, found: Found | Fit, read: int, said: Mapping[str, Any], rest: Mapping[str, Any]
) -> int:
    """Report what could not be read; and print the --json document, or, if folders were searched, what was skipped.

    read: the number of photos. said, rest: fields of the document before and after these numbers. Returns the exit
    code.
    """
    for name, why in found.bad.items():
        complain(f"{name}: {why}")
    skipped = dict(sorted(found.skipped.items()))
    if options.json:
        print_json({**said, "read": read, "skipped": skipped, **rest})
    elif not isinstance(found, Found) or found.folders:
        reasons = ", ".join(f"{reason.replace('_', ' ')} ({count})" for reason, count in skipped.items())
        complain(f"photos read: {read}; skipped: {reasons or 'nothing'}")
    return 2 if found.bad else 0
