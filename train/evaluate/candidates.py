"""What is measured: a run folder, published files of a zoo, and the teacher at its own and at their resolution."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import timm
import torch
from torch import Tensor

from leap_zoo.card import Artifact, ModelCard, Preprocessing
from leap_zoo.model import Model, open_artifact
from leap_zoo.registry import Zoo
from leap_zoo.settings import zoo_folder
from train import recipe
from train.evaluate.features import Features, of_artifact, of_run, teacher_features
from train.hardware import DEVICE, describe
from train.method.teacher import Teacher, check_teacher, fetch_weights, make_vit
from train.run import Run


@dataclass(frozen=True, eq=False)
class Candidate:
    """A student or a teacher.

    about: `subject`, `variant` (file), `digest` (sha256), `seed` and `hardware` of its results. kinds: of features that
    are measured. digest: of all that they depend on. open: gives the features of photos that are prepared by
    `preprocessing`; of the teacher and its students also `teacher`, and `logits` of its 1000 classes. taught: by the
    teacher that is measured beside it, which saw the photos enlarged to `teacher_pixels`.
    """

    about: dict[str, str | int]
    kinds: tuple[str, ...]
    preprocessing: Preprocessing
    digest: str
    costs: dict[str, float | None]
    open: Callable[[], Features]
    taught: bool = False
    teacher_pixels: int | None = None

    @cached_property
    def features(self) -> Features:
        """Opened once; raises what a file that cannot be run raises."""
        return self.open()


def from_run(run: Run, folder: Path) -> Candidate:
    """The student of a finished run in `folder`."""
    return Candidate(
        {"subject": run.report.name, "seed": run.report.seed, "hardware": describe(DEVICE)},
        ("cls", "patch_mean", "teacher"),
        run.recipe.preprocessing,
        " ".join(_sha256(folder / f"{name}.safetensors") for name in ("student", "head")),
        {"parameters": sum(p.numel() for p in run.student.parameters())},
        partial(of_run, run),
    )


def from_file(
    card: ModelCard, artifact: Artifact, open_model: Callable[[], Model], teacher: str, head: str
) -> Candidate:
    """A published file. Students of `teacher` are measured in its space; on its classes where their card has `head`."""
    taught = card.training is not None and card.training.teacher.name == teacher
    found = card.head(head) if taught else None
    logits = found.output if found is not None and len(found.labels) == 1000 else None
    hardware = describe(torch.device("cpu"))
    return Candidate(
        {"subject": card.id, "variant": artifact.file, "digest": artifact.sha256, "hardware": hardware},
        ("embedding", "teacher"),
        card.preprocessing,
        " ".join([*(file.sha256 for file in artifact.files), *([logits] if logits else [])]),
        {"parameters": card.parameters, "bytes": artifact.total_bytes, "pixels": card.preprocessing.size},
        lambda: of_artifact(open_model(), logits),
        taught,
        card.training.teacher.pixels if card.training else None,
    )


def from_zoo(folder: Path, teacher: str, head: str) -> list[Candidate]:
    """Every file of the zoo in `folder`, in the order of its index. Raises InvalidCard and InvalidArgument."""
    place = Zoo(zoo_folder(folder))
    return [
        from_file(card, artifact, partial(open_artifact, place, card, artifact), teacher, head)
        for card in map(place.card, place.index().models)
        for artifact in card.artifacts
    ]


def from_teacher(spec: recipe.Teacher, preprocessing: Preprocessing) -> Candidate:
    """The teacher, given photos as `preprocessing` says, and enlarged where spec.pixels says so. Raises TrainError."""
    size, enlarged = preprocessing.size, f", enlarged to {spec.pixels} px" if spec.pixels else ""
    vit = check_teacher(spec, size)
    file = fetch_weights(spec.model) if spec.pretrained else Path(str(spec.checkpoint))
    subject, sha256 = f"{spec.model} at {size} px{enlarged}", _sha256(file)

    def features() -> Features:
        teacher = Teacher(make_vit(spec, size)).to(DEVICE)
        tokens = teacher_features(teacher)

        def run(pixels: Tensor) -> dict[str, Tensor]:
            cls = tokens(pixels)["cls"]
            logits = {"logits": teacher.head(cls)} if teacher.classes == 1000 else {}
            return {"embedding": cls, "teacher": cls, **logits}

        return run

    return Candidate(
        {"subject": subject, "variant": file.name, "digest": sha256, "hardware": describe(DEVICE)},
        ("embedding",),
        preprocessing,
        f"{sha256} {spec.pixels}",
        {"parameters": sum(p.numel() for p in vit.parameters()), "bytes": file.stat().st_size, "pixels": size},
        features,
    )


def teachers_of(students: Sequence[Candidate], spec: recipe.Teacher) -> list[Candidate]:
    """The teacher at its own resolution, then at that of its students. Raises TrainError."""
    config = timm.get_pretrained_cfg(spec.model)
    size = config.input_size[-1] if config else 224
    own = Preprocessing(size=size, short_side=math.floor(size / config.crop_pct) if config else size)
    taught = {student.preprocessing.size: student.preprocessing for student in students if student.taught}
    return [from_teacher(spec, preprocessing) for preprocessing in ({size: own} | taught).values()]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
