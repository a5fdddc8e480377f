"""From run folder to zoo: build in memory, measure through `leap_zoo`, then write once, check and move into place."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from export import build, doubt, for_timm, gate, readme
from export import card as cards
from export import zoo as publishing
from export.built import DEFAULT, NAMES, Kind, file_of
from export.doubt import MorePhotos
from export.errors import GateFailed
from export.gate import Labelled
from export.golden import draw, golden_bytes
from export.graph import DeployedStudent
from export.latency import card_rows
from leap_zoo.bench import Plan, bench
from leap_zoo.card import Artifact, File, ModelCard, Search
from leap_zoo.loading import choose_artifact
from leap_zoo.model import Model
from leap_zoo.verify import verify as verify_published
from train.run import Run

REFERENCE = NAMES["onnx", "fp32"]
TIMING = Plan(seconds=3.0)  # of each file, for the card
NO_MORE = MorePhotos()

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Contents:
    """A model's files in memory, read like those of a zoo."""

    by_name: Mapping[str, bytes]

    def read(self, _: ModelCard, file: File) -> bytes:
        return self.by_name[file.file]


def publish(
    run: Run, zoo: Path, kinds: Collection[Kind] = DEFAULT, more: MorePhotos = NO_MORE, *, say: Say = print
) -> tuple[ModelCard, list[str]]:
    """Export, check and publish `run` into the folder `zoo`.

    kinds: the files to publish; the fp32 ONNX file is always built, because the gate compares with it. more: photos
    beyond the run's own that the files are measured on.
    Returns the card and the reasons why files were refused. Raises GateFailed, with the zoo unchanged, if the fp32 file
    is wrong or no file is left to publish; TrainError if the run's photos are missing.
    """
    model, images = DeployedStudent(run).eval(), draw(run.recipe.preprocessing.size)
    zoo.mkdir(parents=True, exist_ok=True)
    forms, search = build.build(run, model, kinds, say)
    licence = cards.licences(run).weights
    timm = for_timm.files(model, run.recipe.preprocessing, licence=licence, description=run.recipe.description)
    place = _Contents(timm | {file.file: form.read(file) for form in forms for file in form.artifact.files})
    card = cards.card(run, model, [form.artifact for form in forms], search)
    card = replace(card, timm=[file_of(name, content) for name, content in timm.items()])
    files = {artifact.file: _opened(place, card, artifact) for artifact in card.artifacts}
    worst = gate.check_parity(files[REFERENCE], for_timm.TimmStudent(place, card), images)
    say(f"timm's model of {for_timm.WEIGHTS} differs from the fp32 file by {worst:.1e} at most")
    sets = gate.test_sets(run)
    verdict = gate.judge(files, REFERENCE, sets, say)
    wanted = {NAMES[kind] for kind in kinds}
    figures = [more.left_out] if more.left_out else []
    kept = [
        replace(artifact, metrics=[*verdict.metrics[artifact.file], *figures])
        for artifact in card.artifacts
        if artifact.file in wanted and artifact.file not in verdict.refused
    ]
    refused = [reason for name, reason in verdict.refused.items() if name in wanted]
    refused += _without_a_way(wanted - {artifact.file for artifact in card.artifacts}, search)
    if not kept:
        raise GateFailed("nothing was published: " + "; ".join(refused))
    golden = golden_bytes(images, {artifact.file: files[artifact.file].run(images, model.names) for artifact in kept})
    card = replace(card, artifacts=kept, golden=cards.golden(golden, kept))
    if more.aside is None:
        more = dataclasses.replace(more, aside=_own_photos(run, sets))
    card = _with_doubt(card, files, more, say)
    with tempfile.TemporaryDirectory(dir=zoo, prefix=".staging-") as folder:
        staging = Path(folder)
        home = staging / card.id
        home.mkdir()
        (home / card.golden.file).write_bytes(golden)
        for file in (*(file for artifact in kept for file in artifact.files), *card.timm):
            (home / file.file).write_bytes(place.read(card, file))
        say("timing the files on this device")
        publishing.list_card(staging, card)  # they are timed as a user runs them
        rows, _ = bench([card.id], TIMING, staging)
        card = replace(card, latency=card_rows(rows))
        publishing.list_card(staging, card)
        readme.write(card, home)
        report = verify_published(card.id, zoo=staging)
        if not report.ok:
            raise GateFailed("; ".join(artifact.error or "" for artifact in report.artifacts if not artifact.ok))
        publishing.move(card, staging, zoo)
    return card, refused


def _own_photos(run: Run, sets: Sequence[Labelled]) -> Labelled | None:
    """The run's validation photos, if the default head was trained on the run's own classes."""
    own = run.recipe.data.head
    return next((photos for photos in sets if photos.head == own == run.info.default_head), None)


def _with_doubt(card: ModelCard, files: Mapping[str, Model], more: MorePhotos, say: Say) -> ModelCard:
    """The card with the doubt of its default head, fitted with the file that is loaded by default."""
    head = card.head()
    if head is None or more.aside is None:
        return card
    say(f"fitting doubt on {len(more.aside.labels)} photos ({more.aside.dataset}, {more.aside.split})")
    chosen = choose_artifact(card)
    known, metrics = doubt.fit(files[chosen.file], head, more.aside, more.world, more.drawings)
    measured = replace(chosen, metrics=[*chosen.metrics, *metrics])
    return replace(
        card,
        heads=[replace(head, doubt=known) if each.name == head.name else each for each in card.heads],
        artifacts=[measured if each.file == chosen.file else each for each in card.artifacts],
    )


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
