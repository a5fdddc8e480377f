"""From run folder to zoo: build in a staging folder, judge the files there through `leap_zoo`, then publish."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from msgspec.structs import replace

from export import build, describe, for_timm, verify
from export.built import NAMES, Built, Kind, file_of
from export.errors import GateFailed
from export.golden import draw, write_golden
from export.graph import DeployedStudent
from export.latency import latency_rows
from export.listing import list_model
from leap_zoo import publish as publishing
from leap_zoo import store
from leap_zoo.card import Artifact, ModelCard, Search
from leap_zoo.loading import open_artifact
from leap_zoo.model import Model
from leap_zoo.verify import verify as verify_published
from train.run import Run

GOLDEN = "golden.npz"
REFERENCE: Kind = ("onnx", "fp32")
TIMING_SECONDS = 3.0  # per file, for the latencies in the card

Say = Callable[[str], None]


def publish(
    run: Run, zoo: Path, kinds: Collection[Kind] = tuple(NAMES), *, say: Say = print
) -> tuple[ModelCard, list[str]]:
    """Export, judge and publish `run` into the folder `zoo`.

    kinds: which files to publish; the fp32 ONNX file is built in any case, since the gate compares with it.
    Returns the card and the reasons for which files were refused. Raises GateFailed, with the zoo unchanged, when the
    fp32 file is wrong or nothing is left to publish; TrainError when the run's photos are not there.
    """
    model = DeployedStudent(run).eval()
    zoo.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=zoo, prefix=".staging-") as folder:
        staging = Path(folder)
        forms, search = build.build(run, model, kinds, say)
        card = _write(run, model, forms, [form.artifact() for form in forms], search, staging)
        place = store.Zoo(staging)
        files = {artifact.file: open_artifact(place, card, artifact) for artifact in card.artifacts}
        worst = verify.check_parity(
            files[NAMES[REFERENCE]], for_timm.TimmStudent(place, card), draw(run.recipe.preprocessing.size)
        )
        say(f"timm's model of {for_timm.WEIGHTS} differs from the fp32 file by {worst:.1e} at most")
        verdict = verify.judge(run, files, NAMES[REFERENCE], say)
        wanted = {NAMES[kind] for kind in kinds}
        kept = [
            replace(artifact, metrics=verdict.metrics[artifact.file])
            for artifact in card.artifacts
            if artifact.file in wanted and artifact.file not in verdict.refused
        ]
        refused = [reason for name, reason in verdict.refused.items() if name in wanted]
        refused += _without_a_way(wanted - {artifact.file for artifact in card.artifacts}, search)
        if not kept:
            raise GateFailed("nothing was published: " + "; ".join(refused))
        shutil.rmtree(staging / card.id)
        card = _write(run, model, forms, kept, search, staging)
        say("timing the files on this device")
        card = replace(card, latency=latency_rows(card.id, staging, seconds=TIMING_SECONDS))
        list_model(card, staging)
        report = verify_published(card.id, zoo=staging)
        if not report.ok:
            raise GateFailed("; ".join(artifact.error or "" for artifact in report.artifacts if not artifact.ok))
        _move(card, staging, zoo)
    return card, refused


def _without_a_way(missing: Collection[str], search: Search | None) -> list[str]:
    """Why files are not there at all: nothing in int8 passed on the selection photos."""
    candidates = [] if search is None else search.candidates
    reasons = []
    for kind, name in NAMES.items():
        if name in missing:
            tried = [f"{c.name}: {c.outcome}" for c in candidates if c.format == kind[0]]
            reasons.append(f"{name} was not published: nothing in int8 passed; {'; '.join(tried)}")
    return reasons


def _write(
    run: Run,
    model: DeployedStudent,
    forms: list[Built],
    artifacts: list[Artifact],
    search: Search | None,
    staging: Path,
) -> ModelCard:
    """Files, golden outputs, card, README and index for these artifacts, in the staging zoo."""
    home = staging / run.recipe.name
    home.mkdir()
    by_name = {NAMES[form.kind]: form for form in forms}
    images = draw(run.recipe.preprocessing.size)
    card = describe.card(run, model, artifacts, (GOLDEN, b"none yet"), search)
    golden = {}
    for artifact in artifacts:
        form = by_name[artifact.file]
        for file in artifact.files:
            (home / file.file).write_bytes(form.read(file))
        golden[artifact.file] = Model.open(card, artifact, form.read).run(images, model.names)
    write_golden(home / GOLDEN, images, golden)
    timm = for_timm.files(
        model, run.recipe.preprocessing, licence=card.licences.weights, description=run.recipe.description
    )
    for name, content in timm.items():
        (home / name).write_bytes(content)
    card = describe.card(run, model, artifacts, (GOLDEN, (home / GOLDEN).read_bytes()), search)
    card = replace(card, timm=[file_of(name, content) for name, content in timm.items()])
    list_model(card, staging)
    return card


def _move(card: ModelCard, staging: Path, zoo: Path) -> None:
    """Swap the model's folder in the zoo for the new one, then list it.

    A reader in between finds an index that does not fit the card, and says so; it never gets a mixture of files.
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
