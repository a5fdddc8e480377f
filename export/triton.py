"""`python -m export.triton`: a model repository for NVIDIA Triton, which KServe serves too.

It has the same ONNX file, and a config.pbtxt from its card:

    REPOSITORY/MODEL/config.pbtxt
    REPOSITORY/MODEL/labels-HEAD.txt    the classes of each head, one a line
    REPOSITORY/MODEL/1/model.onnx
    REPOSITORY/MODEL.yaml               a KServe InferenceService that reads the repository

The server gets pixels as the card says: `leap_zoo.preprocess.to_tensor` makes them from a photo.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from export import text
from leap_zoo.errors import InvalidArgument, LeapZooError, short
from leap_zoo.files import check_path, failing_as, write_file
from leap_zoo.loading import choose_artifact, locate
from leap_zoo.model import MAX_BATCH

DELAY = 2000  # microseconds that a request waits for others to share a batch


def write_repository(
    folder: str | os.PathLike[str],
    name: str | None = None,
    *,
    zoo: str | None = None,
    precision: str | None = None,
    threads: int = 1,
    storage: str = "pvc://models/repository",
) -> Path:
    """Write one model of a zoo into a Triton model repository; returns its folder. Other models there stay.

    storage: KServe's storageUri of the repository. Raises InvalidArgument, and what `leap_zoo.load` raises.
    """
    place, card = locate(name, zoo)
    artifact = choose_artifact(card, precision, "onnx", lambda one: place.holds(card, one))
    labels = {head.output: f"labels-{head.name}.txt" for head in card.heads}
    render = partial(text.render, card=card, precision=artifact.precision, labels=labels, threads=threads)
    files = {labels[head.output]: "".join(f"{one}\n" for one in head.labels).encode() for head in card.heads}
    files["1/model.onnx"] = place.read(card, artifact.files[0])
    files["config.pbtxt"] = render("triton.pbtxt", batch=MAX_BATCH, delay=DELAY).encode()
    files[f"../{card.id}.yaml"] = render("kserve.yaml", storage=storage).encode()
    home = check_path(folder) / card.id
    with failing_as(InvalidArgument, f"{short(home)} cannot be written", "choose another folder"):
        (home / "1").mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            write_file(home / path, content)
    return home


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m export.triton", description="Write a model repository for Triton and KServe."
    )
    parser.add_argument("folder", help="of the repository; models that are there stay")
    parser.add_argument("--model", help="default: the same as for leap-zoo classify")
    parser.add_argument("--zoo", metavar="FOLDER", help="search only this zoo")
    parser.add_argument("--precision", choices=("int8", "fp16", "fp32"), help="default: int8 where the model has it")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="per instance (default: 1)")
    parser.add_argument("--storage", default="pvc://models/repository", metavar="URI", help="KServe's storageUri")
    options = vars(parser.parse_args(arguments))
    try:
        home = write_repository(options.pop("folder"), options.pop("model"), **options)
    except LeapZooError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(f"{home}: config.pbtxt, labels, 1/model.onnx; {home}.yaml is an InferenceService of KServe")
    return 0


if __name__ == "__main__":
    sys.exit(main())
