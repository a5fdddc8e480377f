"""`python -m export RUN --zoo FOLDER`: a finished run becomes verified files in a zoo."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from train.errors import TrainError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 when an artifact was refused, 2 for a user's mistake."""
    options = _parser().parse_intermixed_args(arguments)  # key=value may follow an option
    from export import publish, text  # torch takes seconds to import; --help needs none of it
    from export.built import DEFAULT, NAMES
    from export.errors import ExportError
    from export.heads import without_dead_head
    from leap_zoo.errors import LeapZooError
    from train.evaluate.__main__ import SHOWN
    from train.evaluate.datasets import open_world
    from train.evaluate.survey import Cache
    from train.run import load_run

    try:
        run = load_run(options.run, options.overrides)
        kinds = [
            kind
            for kind in (NAMES if options.format else DEFAULT)
            if (not options.format or kind[0] in options.format)
            and (not options.precision or kind[1] in options.precision)
        ]
        if not kinds:
            known = "ONNX has fp32, fp16 and int8, OpenVINO fp16 and int8, ExecuTorch fp32 and int8"
            raise ExportError(f"there is no such file: {known}")
        figure = None  # of a head that is left out
        if options.world is not None:
            world = open_world(options.world, SHOWN)[0]
            run, figure = without_dead_head(run, options.run, world, Cache(options.cache, Path(run.recipe.data.store)))
        card, refused = publish.publish(run, options.zoo, kinds, left_out=figure)
    except (ExportError, TrainError, LeapZooError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1 if isinstance(error, ExportError) else 2
    print(f"\n{card.id} {card.revision} in {options.zoo}:")
    for artifact in card.artifacts:
        print(f"  {artifact.file}  {artifact.total_bytes / 1e6:.2f} MB  sha256 {artifact.sha256}")
        for metric in artifact.metrics:
            where = f"{metric.head or ''} {metric.dataset}, {metric.split} {metric.n}"
            print(text.line(f"    {metric.name} {where} {text.metric_value(metric)} {text.metric_interval(metric)}"))
    for reason in refused:
        print(f"export: {reason}", file=sys.stderr)
    return 1 if refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Export a run folder: ONNX and OpenVINO, fp32, fp16 and int8, checked against torch and each other "
        "on photos, with a card. In int8 the layers that the answers need stay in float.",
        epilog="examples:\n"
        "  python -m export runs/leap-digits --zoo zoo-out\n"
        "  python -m export runs/leap-nano --zoo leap_zoo/bundled --format onnx --precision int8\n"
        "  python -m export runs/leap-nano --zoo zoo-out data.train=photos/train data.val=photos/val",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder, as `python -m train` left it")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="where the run's photos are now")
    parser.add_argument(
        "--world",
        type=Path,
        metavar="PHOTOS.csv",
        help="photos of ImageNet's classes that nobody learned from: the teacher's head is left out of the files where "
        "the student is right on less than half as many as the teacher",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/embeddings"), help="folder of embeddings of --world (%(default)s)"
    )
    parser.add_argument("--zoo", type=Path, required=True, help="folder to publish into; made when missing")
    for name, choices in (("--format", ["onnx", "openvino", "executorch"]), ("--precision", ["fp32", "fp16", "int8"])):
        parser.add_argument(
            name,
            action="append",
            choices=choices,
            help="publish only this one (may be repeated; default: all, of ONNX and OpenVINO)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
