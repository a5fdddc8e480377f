"""From run folder to zoo: build in memory, measure through `leap_zoo`, then write once, check and move into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from export import build, describe, for_timm, gate
from export import zoo as publishing
from export.built import DEFAULT, NAMES, Kind, file_of
from export.card_text import list_model
from export.errors import GateFailed
from export.golden import draw, golden_bytes
from export.graph import DeployedStudent
from export.latency import latency_rows
from leap_zoo.card import Artifact, File, Metric, ModelCard, Search
from leap_zoo.model import Model
from leap_zoo.verify import verify as verify_published
from train.run import Run

REFERENCE = NAMES["onnx", "fp32"]
TIMING_SECONDS = 3.0  # of timing per file, for the card

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Contents:
    """A model's files in memory, read like those of a zoo."""

    by_name: Mapping[str, bytes]

    def read(self, _: ModelCard, file: File) -> bytes:
        return self.by_name[file.file]


def publish(
    run: Run, zoo: Path, kinds: Collection[Kind] = DEFAULT, *, left_out: Metric | None = None, say: Say = print
) -> tuple[ModelCard, list[str]]:
    """Export, check and publish `run` into the folder `zoo`.

    kinds: the files to publish; the fp32 ONNX file is always built, because the gate compares with it. left_out: the
    top-1 of a head that is left out, for the card.
    Returns the card and the reasons why files were refused. Raises GateFailed, with the zoo unchanged, if the fp32 file
    is wrong or no file is left to publish; TrainError if the run's photos are missing.
    """
    model, images = DeployedStudent(run).eval(), draw(run.recipe.preprocessing.size)
    zoo.mkdir(parents=True, exist_ok=True)
    forms, search = build.build(run, model, kinds, say)
    timm = for_timm.files(
        model, run.recipe.preprocessing, licence=describe.licences(run).weights, description=run.recipe.description
    )
    place = _Contents(timm | {file.file: form.read(file) for form in forms for file in form.artifact.files})
    card = describe.card(run, model, [form.artifact for form in forms], search)
    card = replace(card, timm=[file_of(name, content) for name, content in timm.items()])
    files = {artifact.file: _opened(place, card, artifact) for artifact in card.artifacts}
    worst = gate.check_parity(files[REFERENCE], for_timm.TimmStudent(place, card), images)
    say(f"timm's model of {for_timm.WEIGHTS} differs from the fp32 file by {worst:.1e} at most")
    verdict = gate.judge(run, files, REFERENCE, say)
    wanted = {NAMES[kind] for kind in kinds}
    kept = [
        replace(artifact, metrics=[*verdict.metrics[artifact.file], *([left_out] if left_out else [])])
        for artifact in card.artifacts
        if artifact.file in wanted and artifact.file not in verdict.refused
    ]
    refused = [reason for name, reason in verdict.refused.items() if name in wanted]
    refused += _without_a_way(wanted - {artifact.file for artifact in card.artifacts}, search)
    if not kept:
        raise GateFailed("nothing was published: " + "; ".join(refused))
    golden = golden_bytes(images, {artifact.file: files[artifact.file].run(images, model.names) for artifact in kept})
    card = replace(card, artifacts=kept, golden=describe.golden(golden, kept))
    with tempfile.TemporaryDirectory(dir=zoo, prefix=".staging-") as folder:
        staging = Path(folder)
        (staging / card.id).mkdir()
        (staging / card.id / card.golden.file).write_bytes(golden)
        for file in (*(file for artifact in kept for file in artifact.files), *card.timm):
            (staging / card.id / file.file).write_bytes(place.read(card, file))
        say("timing the files on this device")
        publishing.publish(staging, card)  # they are timed as a user runs them
        card = replace(card, latency=latency_rows(card.id, staging, seconds=TIMING_SECONDS))
        list_model(card, staging)
        report = verify_published(card.id, zoo=staging)
        if not report.ok:
            raise GateFailed("; ".join(artifact.error or "" for artifact in report.artifacts if not artifact.ok))
        _move(card, staging, zoo)
    return card, refused


def _opened(place: _Contents, card: ModelCard, artifact: Artifact) -> Model:
    return Model.open(card, artifact, lambda file: place.read(card, file))


def _without_a_way(missing: Collection[str], search: Search | None) -> list[str]:
    """Why int8 files are missing: none passed on the selection photos."""
    candidates = [] if search is None else search.candidates
    reasons = []
    for kind, name in NAMES.items():
        if name in missing:
            tried = [f"{c.name}: {c.outcome}" for c in candidates if c.format == kind[0]]
            reasons.append(f"{name} was not published: no int8 file passed; {'; '.join(tried)}")
    return reasons


def _move(card: ModelCard, staging: Path, zoo: Path) -> None:
    """Replace the model's folder in the zoo with the new one, then update the index.

    A reader in between finds an index that does not match the card, and reports that; it never gets mixed files.
    """
    home, old = zoo / card.id, staging / ".old"
    if home.exists():
        os.replace(home, old)
    try:
        os.replace(staging / card.id, home)
        publishing.publish(zoo, card)
    except BaseException:
        if old.exists():
            shutil.rmtree(home, ignore_errors=True)
            os.replace(old, home)
        raise
