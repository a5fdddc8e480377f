"""Who is asked: every published file of a zoo, and the teacher at its own resolution and at that of its students."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from leap_zoo.card import Artifact, ModelCard, Preprocessing
from leap_zoo.errors import UnknownModel
from leap_zoo.model import open_artifact
from leap_zoo.registry import Zoo
from leap_zoo.settings import zoo_folder
from train import recipe
from train.evaluate.features import Features, normalise
from train.hub import fetch_weights
from train.teacher import Teacher, check_teacher, make_vit, normalisation

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Subject:
    """Something that embeds photos prepared by `spec`; model, revision, file and sha256 as in `train.figures.Figure`.

    digest: of all its weights. costs: `parameters`, `bytes`, `pixels`. taught: by the teacher that is asked beside it.
    device: that it runs on.
    open: gives its features, uint8 (B, H, W, 3) -> `embedding` (B, D), and of what has a place in the teacher's space
    `teacher` (B, D_t) and `logits` (B, 1000) of the teacher's classes.
    """

    model: str
    revision: str
    file: str
    sha256: str
    digest: str
    spec: Preprocessing
    costs: dict[str, int]
    taught: bool
    open: Callable[[], Features]
    device: torch.device = CPU


def find_students(folder: Path, teacher: str, head: str) -> list[Subject]:
    """Every artifact of the zoo in `folder`, in the order of its index.

    teacher: its students are asked in its space, and for its classes where they have its `head`.
    Raises UnknownModel, InvalidCard, InvalidArgument.
    """
    place = Zoo(zoo_folder(folder))
    cards = [place.card(entry) for entry in place.index().models]
    if not cards:
        raise UnknownModel(f"{folder} lists no models: export one into it first")
    return [_student(place, card, artifact, teacher, head) for card in cards for artifact in card.artifacts]


def find_teachers(spec: recipe.Teacher, students: Sequence[Subject]) -> list[Subject]:
    """The teacher at its own resolution, then at that of its students.

    Raises TrainError.
    """
    own = own_preprocessing(spec.model)
    check_teacher(spec, own.size)
    file = Path(str(spec.checkpoint)) if not spec.pretrained else fetch_weights(spec.model)
    data = file.read_bytes()
    taught = {student.spec.size: student.spec for student in students if student.taught}
    specs = {own.size: taught.get(own.size, own), **taught}
    return [_teacher(spec, file.name, data, each) for each in specs.values()]


def own_preprocessing(model: str) -> Preprocessing:
    """What timm's configuration says of a teacher's photos: pixels, and the share of the photo that is kept."""
    config = timm.get_pretrained_cfg(model)
    size = config.input_size[-1]
    return Preprocessing(size=size, short_side=math.floor(size / config.crop_pct))


def _student(place: Zoo, card: ModelCard, artifact: Artifact, teacher: str, head: str) -> Subject:
    taught = card.training is not None and card.training.teacher.name == teacher
    outputs = {"embedding": "embedding"}
    if taught:
        outputs["teacher"] = "teacher_embedding"
        classifier = card.head(head)
        if classifier is not None and len(classifier.labels) == 1000:
            outputs["logits"] = classifier.output

    def features() -> Features:
        model = open_artifact(place, card, artifact)

        def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            found = model.run(pixels.numpy(), list(outputs.values()))
            return {name: torch.from_numpy(found[output]) for name, output in outputs.items()}

        return run

    return Subject(
        model=card.id,
        revision=card.revision,
        file=artifact.file,
        sha256=artifact.sha256,
        digest=hashlib.sha256("".join(file.sha256 for file in artifact.files).encode()).hexdigest(),
        spec=card.preprocessing,
        costs=_costs(card.parameters, artifact.total_bytes, card.preprocessing),
        taught=taught,
        open=features,
    )


def _teacher(spec: recipe.Teacher, file: str, data: bytes, preprocessing: Preprocessing) -> Subject:
    size, sha256 = preprocessing.size, hashlib.sha256(data).hexdigest()
    device = torch.device("cuda") if torch.cuda.is_available() else CPU

    def features() -> Features:
        teacher = Teacher(make_vit(spec, size)).to(device)
        mean, std = normalisation(teacher.vit)

        def run(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            cls = teacher(normalise(pixels.to(device), mean, std), teacher.blocks).cls
            logits = {"logits": teacher.head(cls)} if teacher.classes == 1000 else {}
            return {"embedding": cls, "teacher": cls, **logits}

        return run

    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(spec.model, **spec.options).parameters())
    return Subject(
        model=f"{spec.model} at {size} px",
        revision=sha256[:12],
        file=file,
        sha256=sha256,
        digest=sha256,
        spec=preprocessing,
        costs=_costs(parameters, len(data), preprocessing),
        taught=False,
        open=features,
        device=device,
    )


def _costs(parameters: int, size: int, spec: Preprocessing) -> dict[str, int]:
    return {"parameters": parameters, "bytes": size, "pixels": spec.size}
