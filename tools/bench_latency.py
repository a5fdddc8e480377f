"""`python -m tools.bench_latency`: files of a zoo beside the same student in PyTorch, into `results/latency.csv`.

Everything takes turns within one run, as `leap-zoo bench` does it. `--against torch` is timm's model of the published
weights, `torch-onnx` what torch.onnx.export makes of it, on ONNX Runtime.
`--add FILE` writes what `leap-zoo bench --json` printed on another device instead.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from export import text
from export.golden import draw
from export.latency import FILE, Measured, add_rows
from leap_zoo.bench import SECONDS, Contender, Plan, Row, bench, relative, slowdown
from leap_zoo.card import ModelCard
from leap_zoo.errors import InvalidArgument, LeapZooError
from leap_zoo.loading import choose_artifact, open_artifact
from leap_zoo.model import Model
from leap_zoo.store import Zoo, models
from train.errors import TrainError

KINDS = ("torch", "torch-onnx")


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; exit status 2 for what the user can fix."""
    options = _parser().parse_args(arguments)
    try:
        if options.add is not None:
            document = msgspec.json.decode(options.add.read_bytes(), type=dict[str, msgspec.Raw])
            rows = msgspec.json.decode(document["rows"], type=list[Row])
        else:
            rows = measure(options)
        add_rows(options.out, rows)
    except (LeapZooError, TrainError, OSError, KeyError, msgspec.MsgspecError) as error:
        print(f"tools.bench_latency: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    measured = msgspec.convert(msgspec.to_builtins(rows), list[Measured])
    print(text.render("latency.md", measured=measured))
    busy = f"medians are up to {slowdown(rows):.1f} times the fastest call (1.1: nothing else ran)"
    print(f"written to {options.out}; {busy}")
    return 0


def measure(options: argparse.Namespace) -> list[Measured]:
    """The rows of the models of a zoo and of their peers. Raises LeapZooError, GateFailed."""
    plan = Plan(threads=options.threads, batches=options.batch, seconds=options.seconds)
    names = options.models or [card.id for card in models(options.zoo)]
    peers = [partial(_peer, kind) for kind in options.against]
    found, notes = bench(names, plan, options.zoo, peers, shown=True)
    print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    rows = [msgspec.convert(msgspec.to_builtins(row), Measured) for row in found]
    measured = []
    for name in dict.fromkeys(row.model for row in rows):
        ours = relative([row for row in rows if row.model == name], lambda row: row.format == "torch", "times_eager")
        measured += relative(ours, lambda row: row.format == "torch-onnx", "times_exported")
    return measured


def _peer(kind: str, place: Zoo, card: ModelCard, threads: int) -> Contender:
    """A peer, compared with the fp32 file first, where the zoo has one: what is timed must be the same student."""
    from export.formats.timm import TimmStudent
    from export.gate import check_parity

    model = _open(kind, place, card, threads)
    if model.artifact in card.artifacts:
        file = open_artifact(place, card, model.artifact, threads)
        check_parity(file, TimmStudent(card, partial(place.read, card)), draw(card.preprocessing.size))
    if kind == "torch-onnx":  # exporting takes long and much memory: its costs would say nothing about the file
        return Contender(kind, lambda: model, costs=False)
    return Contender(kind, partial(_open, kind, place, card, threads))


def _open(kind: str, place: Zoo, card: ModelCard, threads: int) -> Model:
    from export.formats.timm import WEIGHTS
    from tools.torch_session import ExportedSession, TorchSession  # importing torch counts as loading

    session = TorchSession(place, card, threads)
    try:
        artifact = choose_artifact(card, "fp32", "onnx")
    except InvalidArgument:  # the row is of the weights that timm reads
        artifact = replace(choose_artifact(card, None, "onnx"), file=WEIGHTS, precision="fp32", quantisation=None)
    if kind == "torch-onnx":
        return Model(card, artifact, ExportedSession(card, artifact, session, threads))
    return Model(card, artifact, session)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench_latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all of the zoo")
    parser.add_argument("--zoo", type=Path, default=Path("zoo"), help="(%(default)s)")
    parser.add_argument("--against", choices=KINDS, action="append", default=[], help="may be repeated")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(1 2)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N", help="photos per call (1 8)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help="of timed calls per row (%(default)s)"
    )
    parser.add_argument("--add", type=Path, metavar="FILE", help="write these rows, of another device; measure nothing")
    parser.add_argument("--out", type=Path, default=FILE, metavar="FILE", help="(%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
