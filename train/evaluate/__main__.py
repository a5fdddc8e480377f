"""`python -m train.evaluate RUN_OR_MODEL --data ...`: what a student's features are worth, on photos of your own."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import msgspec
import torch

import leap_zoo
from leap_zoo.errors import LeapZooError
from train.errors import TrainError
from train.hardware import describe
from train.research.results import Result, as_text, results_of, write_results
from train.run import commit, load_run

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
TRAIN for each photo of TEST; a photo that is in both is not an answer to itself.
Ground truth of Revisited Oxford and Paris is JSON here, never a pickle:
  {"gallery": [name, ...], "queries": [{"name": ..., "box": [x1, y1, x2, y2], "easy": [...], "hard": [...],
  "junk": [...]}, ...]}, the lists being positions in `gallery`: imlist, qimlist and gnd of the original file."""


def main(arguments: list[str] | None = None) -> int:
    """Evaluate, print a table or JSON; exit status 2 for what the user can fix."""
    options = _parser().parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # reports of broken photos must not end up in the JSON
            rows = _run(options)
        if options.out:
            write_results(options.out, rows)
    except (TrainError, LeapZooError) as error:
        print(f"train.evaluate: {error}", file=sys.stderr)
        return 2
    print(msgspec.json.encode(rows).decode() if options.json else as_text(rows))
    return 0


def _run(options: argparse.Namespace) -> list[Result]:
    from train.evaluate.datasets import open_pair
    from train.evaluate.features import of_artifact, of_run
    from train.evaluate.plan import Plan, evaluate

    folder, digest, seed = Path(options.model), "", None
    device = torch.device("cuda" if torch.cuda.is_available() and folder.is_dir() else "cpu")
    if folder.is_dir():
        run = load_run(folder)
        embedder, data, seed = of_run(run), run.recipe.data, run.report.seed
        own = [[data.name, data.train, data.val]] if data.train and data.val else []
    else:
        model = leap_zoo.load(options.model, zoo=options.zoo, precision=options.precision, format=options.format)
        embedder, own, digest = of_artifact(model), [], model.artifact.sha256
    wanted = options.data or own
    if not wanted and not options.revisited:
        raise TrainError("which photos? give --data [NAME] TRAIN TEST, or --revisited PHOTOS TRUTH.json")
    revisited = [(Path(photos), Path(truth)) for photos, truth in options.revisited]
    plan = Plan([open_pair(words) for words in wanted], options.protocols, revisited)
    metrics = evaluate(embedder, plan, seed=options.seed)
    about = {"subject": embedder.name, "digest": digest, "seed": seed}
    return results_of(metrics, about | {"hardware": describe(device), "commit": commit()})


def _parser() -> argparse.ArgumentParser:
    from train.evaluate.plan import PROTOCOLS, USUAL

    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("model", metavar="RUN_OR_MODEL", help="run folder, or the id of a model (`leap-zoo list`)")
    add("--zoo", help="folder of the zoo that the model is in (default: the bundled one)")
    add("--precision", choices=["fp32", "fp16", "int8"], help="of the model's file (default: int8)")
    add("--format", choices=["onnx", "openvino"], help="of the model's file (default: onnx)")
    words = "[NAME] TRAIN TEST, or a folder with train/ and val/ or test/; repeatable"
    add("--data", nargs="+", action="append", metavar="WORD", help=words)
    usual = "default: all but fit, which is slow"
    add("--protocols", nargs="+", choices=PROTOCOLS, default=list(USUAL), help=usual)
    add("--revisited", nargs=2, action="append", default=[], metavar=("PHOTOS", "TRUTH.json"))
    add("--seed", type=int, default=0, help="of the probe's split and the few-shot draws (0)")
    add("--json", action="store_true", help="print JSON")
    add("--out", type=Path, metavar="FILE.csv", help="also write the rows to a file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
