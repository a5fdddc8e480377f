"""`python -m export.bundle MODEL_FOLDER --zoo ZOO --file NAME`: publish some of the files of an exported model.

The bundled zoo has one file per student; the others are elsewhere. The card and figures are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from export.card_text import list_model
from export.for_timm import WEIGHTS
from export.golden import golden_bytes
from leap_zoo.card import ModelCard
from leap_zoo.documents import read_card
from leap_zoo.errors import InvalidArgument, LeapZooError, nearest
from leap_zoo.store import ModelFolder
from leap_zoo.verify import read_golden


def bundle(source: Path, zoo: Path, files: Collection[str]) -> ModelCard:
    """Publish the artifacts `files` of the model in `source` into `zoo`, with a card and golden outputs for them only.

    `model.safetensors` among `files` includes all files that timm and torch read. Raises InvalidArgument for a name
    that the card does not list, ArtifactCorrupt, InvalidCard.
    """
    card, folder = read_card(source / "card.json"), ModelFolder(source)
    known = [artifact.file for artifact in card.artifacts] + [WEIGHTS] * bool(card.timm)
    for name in files:
        if name not in known:
            raise InvalidArgument(f"{card.id} has no artifact {name!r}{nearest(name, known)}")
    kept = [artifact for artifact in card.artifacts if artifact.file in files]
    golden = read_golden(folder.read(card, card.golden))
    outputs = {
        artifact.file: {
            key.removeprefix(f"{artifact.file}/"): values.astype(np.float32)
            for key, values in golden.items()
            if key.startswith(f"{artifact.file}/")
        }
        for artifact in kept
    }
    zoo.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=zoo, prefix=".staging-") as staging:
        home = Path(staging) / card.id
        home.mkdir()
        timm = card.timm if WEIGHTS in files else []
        for file in (*(file for artifact in kept for file in artifact.files), *timm):
            (home / file.file).write_bytes(folder.read(card, file))
        data = golden_bytes(golden["image"].astype(np.uint8), outputs)
        (home / card.golden.file).write_bytes(data)
        card = replace(
            card,
            artifacts=kept,
            timm=timm,
            latency=[row for row in card.latency if row.file in files],
            golden=replace(card.golden, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
        )
        shutil.rmtree(zoo / card.id, ignore_errors=True)
        os.replace(home, zoo / card.id)
    list_model(card, zoo)
    return card


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m export.bundle",
        description="Publish some of the files of an exported model.",
        epilog="example: python -m export.bundle zoo/leap-nano --zoo leap_zoo/bundled --file model_int8.onnx",
    )
    parser.add_argument("folder", type=Path, help="a model's folder, with its card.json")
    parser.add_argument("--zoo", type=Path, required=True, help="folder to publish into; created if missing")
    parser.add_argument("--file", action="append", required=True, metavar="NAME", help="may be repeated")
    options = parser.parse_args()
    try:
        card = bundle(options.folder, options.zoo, options.file)
    except (LeapZooError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(f"{card.id} {card.revision} in {options.zoo}: {', '.join(artifact.file for artifact in card.artifacts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
