"""What a benchmark measures: every published file of a zoo, and the teacher at its own and at their resolution."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from msgspec.structs import replace
from torch import Tensor

from leap_zoo.card import Artifact, ModelCard, Preprocessing
from leap_zoo.errors import UnknownModel
from leap_zoo.model import open_artifact
from leap_zoo.registry import Zoo
from leap_zoo.settings import zoo_folder
from train import recipe
from train.errors import TrainError
from train.evaluate.features import OUTPUTS, Features, of_artifact, teacher_features
from train.method.teacher import Teacher, check_teacher, fetch_weights, make_vit

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A file that embeds photos prepared by `preprocessing`. model, file, sha256: as in the rows of results/zoo.csv.

    digest: of all that its features depend on. costs: `parameters`, `bytes`, `pixels`. taught: by the teacher that is
    measured beside it, which saw the photos enlarged to `teacher_pixels`. device: that it runs on. open: returns its
    features: `embedding`, and of the teacher and its students `teacher`, and `logits` of the teacher's 1000 classes.
    """

    model: str
    file: str
    sha256: str
    digest: str
    preprocessing: Preprocessing
    costs: dict[str, float | None]
    open: Callable[[], Features]
    device: torch.device = CPU
    taught: bool = False
    teacher_pixels: int | None = None


def find_students(folder: Path, teacher: str, head: str) -> list[Candidate]:
    """Every artifact of the zoo in `folder`, in the order of its index.

    teacher: students of it are measured in its space, and on its classes where they have its `head`.
    Raises UnknownModel, InvalidCard, InvalidArgument.
    """
    place = Zoo(zoo_folder(folder))
    cards = [place.card(entry) for entry in place.index().models]
    if not cards:
        raise UnknownModel(f"{folder} lists no models: export one into it first")
    return [_student(place, card, artifact, teacher, head) for card in cards for artifact in card.artifacts]


def find_teachers(spec: recipe.Teacher, students: Sequence[Candidate]) -> list[Candidate]:
    """The teacher at its own resolution, then at that of its students. Raises TrainError."""
    config = timm.get_pretrained_cfg(spec.model)
    size = config.input_size[-1] if config else 224
    check_teacher(spec, size)
    own = Preprocessing(size=size, short_side=math.floor(size / config.crop_pct) if config else size)
    taught = {student.preprocessing.size: student.preprocessing for student in students if student.taught}
    shown = {size: taught.get(size, own), **taught}
    return [open_teacher(spec, preprocessing) for preprocessing in shown.values()]


def find_pair(model: str, students: Sequence[Candidate], spec: recipe.Teacher) -> tuple[Candidate, Candidate]:
    """A student by the id of its model (its int8 ONNX file, where there is one), and the teacher as it taught it.

    Raises TrainError.
    """
    taught = [student for student in students if student.taught]
    files = [student for student in taught if student.model == model]
    if not files:
        names = ", ".join(dict.fromkeys(student.model for student in taught))
        raise TrainError(f"{model} is not a student of {spec.model} in this zoo; there is {names or 'none'}")
    student = next((file for file in files if file.file == "model_int8.onnx"), files[0])
    return student, open_teacher(replace(spec, pixels=student.teacher_pixels), student.preprocessing)


def open_teacher(spec: recipe.Teacher, preprocessing: Preprocessing) -> Candidate:
    """The teacher, given photos as `preprocessing` says, and enlarged where spec.pixels says so. Raises TrainError."""
    check_teacher(spec, preprocessing.size)
    file = fetch_weights(spec.model) if spec.pretrained else Path(str(spec.checkpoint))
    data = file.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def features() -> Features:
        teacher = Teacher(make_vit(spec, preprocessing.size)).to(device)
        tokens = teacher_features(teacher)

        def run(pixels: Tensor) -> dict[str, Tensor]:
            cls = tokens(pixels)["cls"]
            logits = {"logits": teacher.head(cls)} if teacher.classes == 1000 else {}
            return {"embedding": cls, "teacher": cls, **logits}

        return run

    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(spec.model, **spec.options).parameters())
    enlarged = f", enlarged to {spec.pixels} px" if spec.pixels else ""
    return Candidate(
        model=f"{spec.model} at {preprocessing.size} px{enlarged}",
        file=file.name,
        sha256=sha256,
        digest=f"{sha256} {spec.pixels}",
        preprocessing=preprocessing,
        costs={"parameters": parameters, "bytes": len(data), "pixels": preprocessing.size},
        open=features,
        device=device,
    )


def _student(place: Zoo, card: ModelCard, artifact: Artifact, teacher: str, head: str) -> Candidate:
    taught = card.training is not None and card.training.teacher.name == teacher
    outputs = OUTPUTS if taught else {"embedding": "embedding"}
    classifier = card.head(head) if taught else None
    if classifier is not None and len(classifier.labels) == 1000:
        outputs = {**outputs, "logits": classifier.output}
    return Candidate(
        model=card.id,
        file=artifact.file,
        sha256=artifact.sha256,
        digest=" ".join([*(file.sha256 for file in artifact.files), *outputs.values()]),
        preprocessing=card.preprocessing,
        costs={"parameters": card.parameters, "bytes": artifact.total_bytes, "pixels": card.preprocessing.size},
        open=lambda: of_artifact(open_artifact(place, card, artifact), outputs).features,
        taught=taught,
        teacher_pixels=card.training.teacher.pixels if card.training else None,
    )
