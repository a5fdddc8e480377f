"""`python -m train.evaluate RUN_OR_MODEL --data ...`: what a student's features are worth, on photos of your own."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import msgspec
import torch

import leap_zoo
from leap_zoo.card import Metric
from leap_zoo.errors import LeapZooError
from train.errors import TrainError
from train.hardware import describe
from train.run import commit, load_run, versions, write_json

DESCRIPTION = """\
Measure a student's frozen features: linear probe, k-NN, retrieval, few-shot, fit; Revisited Oxford and Paris.
A run folder is measured in torch (CLS, patch mean, teacher space); an exported model through its file (its one
embedding, teacher space), on the same photos prepared the same way."""
EPILOG = """\
examples:
  python -m train.evaluate runs/leap-nano                          # on the photos of its own recipe
  python -m train.evaluate leap-nano --data imagenette             # the bundled file; a folder with train/ and val/
  python -m train.evaluate leap-nano --zoo zoo --precision fp32 --data Caltech-101 caltech/train caltech/test
  python -m train.evaluate runs/leap-nano --data grocery train.txt test.txt --protocols retrieval few-shot
  python -m train.evaluate runs/leap-nano --revisited oxford5k/jpg roxford5k.json

TRAIN and TEST are folders with a folder per class, or text files of `path, label` lines. Retrieval searches in
TRAIN for each photo of TEST; a photo that is in both is no answer to itself.
Ground truth of Revisited Oxford and Paris is JSON here, never a pickle:
  {"gallery": [name, ...], "queries": [{"name": ..., "box": [x1, y1, x2, y2], "easy": [...], "hard": [...],
  "junk": [...]}, ...]}, the lists being positions in `gallery`: imlist, qimlist and gnd of the original file."""


class EvaluationReport(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What was measured, of what, with what."""

    subject: str
    metrics: list[Metric]
    seed: int
    commit: str
    hardware: str
    versions: dict[str, str]


def main(arguments: list[str] | None = None) -> int:
    """Evaluate, print a table or JSON; exit status 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what is said of broken photos is no part of the JSON
            report = _run(options)
        if options.out:
            _write(options.out, report)
    except (TrainError, LeapZooError) as error:
        print(f"train.evaluate: {error}", file=sys.stderr)
        return 2
    print(msgspec.json.encode(report).decode() if options.json else _table(report))
    return 0


def _run(options: argparse.Namespace) -> EvaluationReport:
    from train.evaluate import PhotoSets, Plan, evaluate, of_artifact, of_run

    folder = Path(options.subject)
    if folder.is_dir():
        run = load_run(folder)
        subject, data = of_run(run), run.recipe.data
        own = [[data.name, data.train, data.val]] if data.train and data.val else []
    else:
        model = leap_zoo.load(options.subject, zoo=options.zoo, precision=options.precision, format=options.format)
        subject, own = of_artifact(model), []
    wanted = options.data or own
    if not wanted and not options.revisited:
        raise TrainError("which photos? give --data [NAME] TRAIN TEST, or --revisited PHOTOS TRUTH.json")
    plan = Plan(
        sets=[PhotoSets.from_words(words) for words in wanted],
        protocols=options.protocols,
        revisited=[(Path(photos), Path(truth)) for photos, truth in options.revisited],
    )
    return EvaluationReport(
        subject=subject.name,
        metrics=evaluate(subject, plan, seed=options.seed),
        seed=options.seed,
        commit=commit(),
        hardware=describe(torch.device("cuda" if torch.cuda.is_available() and folder.is_dir() else "cpu")),
        versions=versions("torch", "numpy", "onnxruntime", "scikit-learn"),
    )


def _write(path: Path, report: EvaluationReport) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, report)
    except OSError as error:
        raise TrainError(f"cannot write {path} ({error.strerror}): choose another --out") from error


def _table(report: EvaluationReport) -> str:
    lines = [f"{report.subject}, {report.hardware}; 95 % intervals"]
    for metric in report.metrics:
        low, high = metric.interval or (metric.value, metric.value)
        where = f"{metric.dataset}, {metric.split}"
        lines.append(
            f"{metric.name:44} {where:32} n={metric.n:<6} {metric.value:6.1%}  [{low * 100:.1f}, {high * 100:.1f}]"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    from train.evaluate.plan import PROTOCOLS, USUAL

    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    parser.add_argument("subject", metavar="RUN_OR_MODEL", help="run folder, or the id of a model (`leap-zoo list`)")
    parser.add_argument("--zoo", help="folder of the zoo that the model is in (default: the bundled one)")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8"], help="of the model's file (default: int8)")
    parser.add_argument("--format", choices=["onnx", "openvino"], help="of the model's file (default: onnx)")
    parser.add_argument(
        "--data",
        nargs="+",
        action="append",
        metavar="WORD",
        help="[NAME] TRAIN TEST, or a folder with train/ and val/ or test/; repeatable",
    )
    parser.add_argument(
        "--protocols", nargs="+", choices=PROTOCOLS, default=list(USUAL), help="default: all but fit, which is slow"
    )
    parser.add_argument("--revisited", nargs=2, action="append", default=[], metavar=("PHOTOS", "TRUTH.json"))
    parser.add_argument("--seed", type=int, default=0, help="of the probe's split and the few-shot draws (0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
