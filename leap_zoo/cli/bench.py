"""`leap-zoo bench`: how fast the files of a model are on this device."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from leap_zoo.cli.grammar import Commands, add_providers, add_zoo, at_least_one
from leap_zoo.cli.output import complain, print_json, say
from leap_zoo.errors import short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leap_zoo.bench import Row

BUSY = 1.5  # medians beyond this many times the fastest call say more about the machine than about the model


def add(commands: Commands) -> None:
    """Declare the command."""
    command = commands.add(
        "bench", _bench, "measure speed and memory on this device", "leap-zoo bench leap-tiny --threads 1 2 --batch 1 8"
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="default: as of classify")
    add_zoo(command)
    command.add_argument("--threads", type=at_least_one, nargs="+", default=[1], metavar="N", help="default: 1")
    command.add_argument(
        "--batch", type=at_least_one, nargs="+", default=[1], metavar="N", help="photos per call (default: 1)"
    )
    command.add_argument("--precision", choices=("int8", "fp16", "fp32"), help="default: all that run here")
    command.add_argument("--format", choices=("onnx", "openvino"), help="default: all that run here")
    command.add_argument(
        "--seconds", type=_seconds, default=3.0, metavar="S", help="of timed calls per row (default: %(default)s)"
    )
    add_providers(command)
    command.add_argument("--decode", action="store_true", help="also time JPEG photos: decode, resize, model")


def _bench(options: argparse.Namespace) -> int:
    from leap_zoo.bench import Plan, bench, slowdown
    from leap_zoo.progress import Progress
    from leap_zoo.settings import parse_threads
    from leap_zoo.store import default_model

    plan = Plan(
        threads=[parse_threads(number, "--threads") for number in options.threads],
        batches=options.batch,
        precision=options.precision,
        format=options.format,
        seconds=options.seconds,
        decode=options.decode,
        providers=options.providers,
    )
    bars: list[Progress] = []

    def begin(total: int) -> Callable[[], None]:
        bars.append(Progress(total))
        return bars[0].step

    try:
        rows, notes = bench(options.models or [default_model()], plan, options.zoo, begin)
    finally:
        for bar in bars:
            bar.clear()
    busy = slowdown(rows)
    if busy > BUSY:
        notes.append(f"this machine was busy: medians are up to {busy:.1f} times the fastest call; measure again later")
    for note in notes:
        complain(note)
    if options.json:
        return print_json({"rows": rows, "notes": notes})
    say(f"{rows[0].device} ({rows[0].isa or 'unknown ISA'})")
    for line in _table(rows):
        say(line)
    return 0


def _table(rows: Sequence[Row]) -> list[str]:
    """Aligned columns; those that nobody asked for are left out."""
    columns: dict[str, list[str]] = {
        "model": [row.model for row in rows],
        "file": [row.file for row in rows],
        "runtime": [row.runtime for row in rows],
        "threads": [str(row.threads) for row in rows],
        "batch": [str(row.batch) for row in rows],
        "input": [row.input for row in rows],
        "min ms": [f"{row.min_ms:.2f}" for row in rows],
        "median": [f"{row.median_ms:.2f}" for row in rows],
        "p95": [f"{row.p95_ms:.2f}" for row in rows],
        "photos/s": [f"{row.images_per_second:.1f}" for row in rows],
        "n": [str(row.n) for row in rows],
        "load ms": ["" if row.load_ms is None else f"{row.load_ms:.0f}" for row in rows],
        "peak MB": ["" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.0f}" for row in rows],
        "x fp32": ["" if row.times_fp32 is None else f"{row.times_fp32:.2f}" for row in rows],
    }
    if {row.input for row in rows} == {"pixels"}:
        del columns["input"]
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    widths = {title: max(len(title), *(len(cell) for cell in cells)) for title, cells in shown.items()}
    words = {"model", "file", "runtime", "input"}
    lines = [{title: title for title in shown}]
    lines += [{title: cells[i] for title, cells in shown.items()} for i in range(len(rows))]
    return [
        "  ".join(f"{line[t]:<{widths[t]}}" if t in words else f"{line[t]:>{widths[t]}}" for t in shown).rstrip()
        for line in lines
    ]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0 and at most 3600, not {short(text)}")
    return seconds
