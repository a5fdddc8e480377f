"""`leap-zoo bench`: how fast the files of a model are on this device."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leap_zoo.cli.grammar import Commands, add_artifact, add_zoo
from leap_zoo.cli.output import complain, tell
from leap_zoo.settings import parse_threads
from leap_zoo.store import default_model

if TYPE_CHECKING:
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
    command.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N", help="default: 1")
    command.add_argument("--batch", type=int, nargs="+", default=[1], metavar="N", help="photos per call (default: 1)")
    command.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="timed calls per row, in seconds (default: %(default)s)"
    )


def _bench(options: argparse.Namespace) -> int:
    from leap_zoo.bench import Plan, bench, slowdown

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
    lines = [f"{rows[0].device} ({rows[0].isa or 'unknown ISA'})", *_table(rows)]
    return tell(options, {"rows": rows, "notes": notes}, lines)


def _table(rows: Sequence[Row]) -> list[str]:
    """Aligned columns, words to the left; empty columns are left out."""
    titles = ("model", "file", "runtime", "threads", "batch", "min ms", "median", "p95", "photos/s", "n")
    lines = [[*titles, "load ms", "peak MB", "x fp32"]]
    for row in rows:
        numbers = (f"{row.min_ms:.2f}", f"{row.median_ms:.2f}", f"{row.p95_ms:.2f}", f"{row.images_per_second:.1f}")
        load = "" if row.load_ms is None else f"{row.load_ms:.0f}"
        peak = "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.0f}"
        times = "" if row.times_fp32 is None else f"{row.times_fp32:.2f}"
        words = (row.model, row.file, row.runtime)
        lines.append([*words, f"{row.threads}", f"{row.batch}", *numbers, f"{row.n}", load, peak, times])
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    for number, column in enumerate(columns):
        width = max(map(len, column))
        columns[number] = tuple(cell.ljust(width) if number < 3 else cell.rjust(width) for cell in column)
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
