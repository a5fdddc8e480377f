"""From run folder to zoo: build in a staging folder, judge the files there through `leap_zoo`, then publish."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from onnx import ModelProto

from export import describe, onnx, readme, verify
from export.errors import GateFailed
from export.golden import draw
from export.graph import DeployedStudent
from export.quantize import CALIBRATION_PHOTOS, Recipe, quantize
from leap_zoo import registry
from leap_zoo.card import Artifact, ModelCard, Precision
from leap_zoo.model import Model, load
from leap_zoo.verify import verify as verify_published
from leap_zoo.verify import write_golden
from train.run import Run

FILES: dict[Precision, str] = {"fp32": "model.onnx", "int8": "model_int8.onnx"}
GOLDEN = "golden.npz"

Say = Callable[[str], None]


def publish(run: Run, zoo: Path, precisions: list[Precision], say: Say = print) -> tuple[ModelCard, list[str]]:
    """Export, judge and publish `run` into the folder `zoo`.

    precisions: which of `FILES` to publish; all are built, since the gate compares them.
    Returns the card and the reasons for which artifacts were refused. Raises GateFailed, with the zoo unchanged, when
    the fp32 file is wrong or nothing is left to publish; TrainError when the run's photos are not there.
    """
    model = DeployedStudent(run).eval()
    zoo.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=zoo, prefix=".staging-") as folder:
        staging = Path(folder)
        artifacts = _build(run, model, staging, say)
        card = _write_card(run, model, artifacts, staging)
        files = {artifact.precision: load(card.id, zoo=staging, precision=artifact.precision) for artifact in artifacts}
        verdict = verify.judge(run, files, say)
        kept = [
            replace(artifact, metrics=verdict.metrics[artifact.precision])
            for artifact in artifacts
            if artifact.precision in precisions and artifact.precision not in verdict.refused
        ]
        refused = [reason for precision, reason in verdict.refused.items() if precision in precisions]
        if not kept:
            raise GateFailed("nothing was published: " + ("; ".join(refused) or "no such precision was built"))
        card = _write_card(run, model, kept, staging)
        report = verify_published(card.id, zoo=staging)
        if not report.ok:
            raise GateFailed("; ".join(artifact.error or "" for artifact in report.artifacts if not artifact.ok))
        _move(card, staging / card.id, zoo)
    return card, refused


def _build(run: Run, model: DeployedStudent, staging: Path, say: Say) -> list[Artifact]:
    """Write fp32 and int8 files into the model's folder. Raises GateFailed when fp32 is not what torch computes."""
    home = staging / run.recipe.name
    home.mkdir()
    metadata = describe.metadata(run)
    say("building the fp32 graph")
    fp32 = onnx.build(model, metadata)
    artifacts = [_write("fp32", fp32, None, home)]
    # Before the quantisation, which takes minutes, and which a NaN makes fail in ways that explain nothing.
    card = describe.card(run, model, artifacts, (GOLDEN, b"none yet"))
    file = Model.open(card, artifacts[0], lambda file: (home / file.file).read_bytes())
    worst = verify.check_parity(file, model, draw(run.recipe.preprocessing.size))
    say(f"against torch at batch 1, 2, 5 it differs by {worst:.1e} at most ({verify.PARITY_TOLERANCE:g} allowed)")
    train = run.photos().train
    order = np.random.default_rng(run.recipe.seed).permutation(len(train))
    photos = train.take(np.sort(order[:CALIBRATION_PHOTOS])).decode(run.recipe.preprocessing, "calibration photos")
    recipe = Recipe(photos=len(photos))
    say(f"quantising, calibrated on {len(photos)} photos of the training split")
    int8 = quantize(fp32, photos.pixels, recipe, metadata)
    return [*artifacts, _write("int8", int8, recipe.as_dict(), home)]


def _write(precision: Precision, proto: ModelProto, quantisation: dict[str, object] | None, home: Path) -> Artifact:
    data = proto.SerializeToString(deterministic=True)
    (home / FILES[precision]).write_bytes(data)
    return describe.artifact(precision, FILES[precision], data, quantisation)


def _write_card(run: Run, model: DeployedStudent, artifacts: list[Artifact], staging: Path) -> ModelCard:
    """Golden outputs, card, README and index for these artifacts, in the staging zoo."""
    home = staging / run.recipe.name
    images = draw(run.recipe.preprocessing.size)
    card = describe.card(run, model, artifacts, (GOLDEN, b"none yet"))
    golden = {}
    for artifact in artifacts:
        model_file = Model.open(card, artifact, lambda file: (home / file.file).read_bytes())
        golden[artifact.file] = model_file.run(images, model.names)
    write_golden(home / GOLDEN, images, golden)
    card = describe.card(run, model, artifacts, (GOLDEN, (home / GOLDEN).read_bytes()))
    (home / "README.md").write_text(readme.render(card))
    registry.publish(staging, card)
    return card


def _move(card: ModelCard, source: Path, zoo: Path) -> None:
    """Move what the card lists into the zoo, file by file; the index, written last, is what makes it visible."""
    home = zoo / card.id
    home.mkdir(exist_ok=True)
    listed = {artifact.file for artifact in card.artifacts} | {GOLDEN, "README.md"}
    for name in sorted(listed):
        os.replace(source / name, home / name)
    for name in set(FILES.values()) - listed:  # of an earlier revision
        (home / name).unlink(missing_ok=True)
    registry.publish(zoo, card)
