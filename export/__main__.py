"""`python -m export RUN --zoo FOLDER`: export a finished run as verified files in a zoo."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from train.errors import TrainError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if a file was refused, 2 for a user's mistake."""
    options = _parser().parse_intermixed_args(arguments)  # key=value may follow an option
    from export import publish, text  # torch takes seconds to import, and --help does not need it
    from export.card import DEFAULT, NAMES
    from export.gate import GateFailed
    from export.photos import more_photos
    from leap_zoo.errors import InvalidArgument, LeapZooError
    from train.run import load_run

    try:
        run = load_run(options.run, options.overrides)
        known = [kind for kind in NAMES if kind[0] in options.format] if options.format else DEFAULT
        kinds = [kind for kind in known if not options.precision or kind[1] in options.precision]
        if not kinds:
            fix = "choose fp32, fp16 or int8 for ONNX, fp16 or int8 for OpenVINO, fp32 or int8 for ExecuTorch"
            raise InvalidArgument(f"the format does not have this precision: {fix}")
        run, more = more_photos(run, options.photos, options.world, options.drawings)
        card, refused = publish.publish(run, options.zoo, kinds, more)
    except (TrainError, LeapZooError, OSError) as error:
        print(f"export: {text.line(error)}", file=sys.stderr)
        return 1 if isinstance(error, GateFailed) else 2
    print(text.render("published.txt", card=card, zoo=options.zoo), end="")
    for reason in refused:
        print(f"export: {reason}", file=sys.stderr)
    return 1 if refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Export a run folder as ONNX and OpenVINO files in fp32, fp16 and int8, checked on photos against "
        "torch and each other, with a card. int8 files keep the most sensitive layers in float.",
        epilog="examples:\n"
        "  python -m export runs/leap-digits --zoo zoo-out\n"
        "  python -m export runs/leap-nano --zoo leap_zoo/bundled --format onnx --precision int8\n"
        "  python -m export runs/leap-nano --zoo zoo-out data.train=photos/train data.val=photos/val",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("run", type=Path, help="run folder that `python -m train` wrote")
    option("overrides", nargs="*", metavar="data.key=value", help="where the run's photos are now")
    about = (
        "photos of ImageNet's classes that no model was trained on: the files omit the teacher's head if the "
        "student classifies less than half as many correctly as the teacher"
    )
    option("--world", type=Path, metavar="PHOTOS.csv", help=about)
    about = (
        "photos that the student was not trained on, named WNID_* or in a folder per class of the default head: "
        "they calibrate its scores and when it says not sure (default: the run's validation photos, for its own head)"
    )
    option("--photos", type=Path, action="append", metavar="FOLDER", help=about)
    option("--drawings", type=Path, metavar="FOLDER", help="also measure how many of these are flagged as not sure")
    option("--zoo", type=Path, required=True, help="folder to publish into; created if missing")
    about = "publish only this one (may be repeated; default: all of ONNX and OpenVINO)"
    option("--format", action="append", choices=["onnx", "openvino", "executorch"], help=about)
    option("--precision", action="append", choices=["fp32", "fp16", "int8"], help=about)
    return parser


if __name__ == "__main__":
    sys.exit(main())
