"""`leap-zoo bench`: how fast the files of a model are on this device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from leap_zoo.cli.grammar import Commands, add_artifact, add_zoo, at_least_one
from leap_zoo.cli.output import complain, print_json, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leap_zoo.bench import Row

BUSY = 1.5  # medians above this many times the fastest call mean that the machine was busy


def add(commands: Commands) -> None:
    """Declare the command."""
    command = commands.add(
        "bench", _bench, "measure speed and memory on this device", "leap-zoo bench leap-tiny --threads 1 2 --batch 1 8"
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="default: the same as for classify")
    add_zoo(command)
    add_artifact(command, threads=False, default="all that run here")
    command.add_argument("--threads", type=at_least_one, nargs="+", default=[1], metavar="N", help="default: 1")
    command.add_argument(
        "--batch", type=at_least_one, nargs="+", default=[1], metavar="N", help="photos per call (default: 1)"
    )
    command.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="timed calls per row, in seconds (default: %(default)s)"
    )


def _bench(options: argparse.Namespace) -> int:
    from leap_zoo.bench import Plan, bench, slowdown
    from leap_zoo.settings import parse_threads
    from leap_zoo.store import default_model

    plan = Plan(
        threads=[parse_threads(number, "--threads") for number in options.threads],
        batches=options.batch,
        precision=options.precision,
        format=options.format,
        seconds=options.seconds,
        providers=options.providers,
    )
    rows, notes = bench(options.models or [default_model()], plan, options.zoo, shown=True)
    busy = slowdown(rows)
    if busy > BUSY:
        notes.append(f"the machine was busy (medians are up to {busy:.1f} times the fastest call): measure again later")
    for note in notes:
        complain(note)
    if options.json:
        return print_json({"rows": rows, "notes": notes})
    say(f"{rows[0].device} ({rows[0].isa or 'unknown ISA'})")
    for line in _table(rows):
        say(line)
    return 0


def _table(rows: Sequence[Row]) -> list[str]:
    """Aligned columns; empty columns are left out."""
    table = [
        {
            "model": row.model,
            "file": row.file,
            "runtime": row.runtime,
            "threads": f"{row.threads}",
            "batch": f"{row.batch}",
            "min ms": f"{row.min_ms:.2f}",
            "median": f"{row.median_ms:.2f}",
            "p95": f"{row.p95_ms:.2f}",
            "photos/s": f"{row.images_per_second:.1f}",
            "n": f"{row.n}",
            "load ms": "" if row.load_ms is None else f"{row.load_ms:.0f}",
            "peak MB": "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.0f}",
            "x fp32": "" if row.times_fp32 is None else f"{row.times_fp32:.2f}",
        }
        for row in rows
    ]
    shown = [title for title in table[0] if any(line[title] for line in table)]
    lines = [{title: title for title in shown}, *table]
    widths = {title: max(len(line[title]) for line in lines) for title in shown}
    words = {"model", "file", "runtime"}
    return [
        "  ".join(
            f"{line[t]:{'<' if t in words else '>'}{widths[t]}}" for t in shown
        ).rstrip()  # align words to the left
        for line in lines
    ]
