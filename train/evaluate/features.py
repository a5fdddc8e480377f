"""Features of photos, from a run folder's student, an exported file, or a teacher, through one interface."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from leap_zoo.card import Artifact, ModelCard, Preprocessing
from leap_zoo.loading import open_artifact
from leap_zoo.model import Model
from leap_zoo.settings import zoo_folder
from leap_zoo.store import Zoo
from train import recipe
from train.errors import TrainError
from train.method.student import tokens_at
from train.method.teacher import Teacher, check_teacher, fetch_weights, make_vit, normalisation
from train.run import DEVICE, Run, hardware

Features = Callable[[Tensor], dict[str, Tensor]]  # photos uint8 (B, H, W, 3) -> (B, D) by kind
Normalisation = tuple[Sequence[float], Sequence[float]]  # mean and deviation per channel, of 0..1


@torch.no_grad()
def extract(features: Features, pixels: npt.NDArray[np.uint8], what: str, batch: int = 128) -> dict[str, Tensor]:
    """Run `features` over all photos (N, H, W, 3); float32 on the CPU. Raises TrainError when there are none."""
    if not len(pixels):
        raise TrainError(f"{what}: there are no photos to measure on")
    parts: dict[str, list[Tensor]] = {}
    for start in tqdm(range(0, len(pixels), batch), f"features of {what}", leave=False, mininterval=1):
        for name, value in features(torch.from_numpy(np.array(pixels[start : start + batch]))).items():
            parts.setdefault(name, []).append(value.float().cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), as student and teacher expect it; `mean` and `std` are of 0..1."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


def pooled(student: VisionTransformer, images: Tensor, depth: int | None = None) -> dict[str, Tensor]:
    """Normalized images (B, 3, H, W) -> `cls` and `patch_mean`, (B, D_s) each, after `depth` blocks (None: all)."""
    tokens = tokens_at(student, images, [depth or len(student.blocks)])[0]  # (B, prefix + N, D_s)
    return {"cls": tokens[:, 0], "patch_mean": tokens[:, student.num_prefix_tokens :].mean(1)}


def of_student(
    student: VisionTransformer,
    projection: tuple[Tensor, Tensor],
    normalisation: Normalisation,
    head: Callable[[Tensor], Tensor] | None = None,
) -> Features:
    """`cls`, `patch_mean`, `teacher` (CLS in the teacher's space), and `logits`, what a `head` there makes of it.

    projection: weight (D_t, D_s) and bias (D_t,) of CLS, on the student's device.
    """

    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = pooled(student, normalise(pixels.to(projection[0].device), *normalisation))
        found["teacher"] = functional.linear(found["cls"], *projection)
        return found if head is None else {**found, "logits": head(found["teacher"])}

    return features


def of_run(run: Run) -> Features:
    """The student of a run folder."""
    weight, bias = (run.tensors[f"projection.cls.{key}"].to(DEVICE) for key in ("weight", "bias"))
    return of_student(run.student.to(DEVICE), (weight, bias), (run.info.mean, run.info.std))


def of_artifact(model: Model, logits: str | None = None) -> Features:
    """An exported file, through the edge runtime: `embedding`, `teacher`, and `logits` from the output of that name."""
    outputs = {"embedding": "embedding", "teacher": "teacher_embedding"} | ({"logits": logits} if logits else {})

    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = model.run(pixels.numpy(), list(outputs.values()))
        return {name: torch.from_numpy(found[output]) for name, output in outputs.items()}

    return features


def of_teacher(spec: recipe.TeacherSettings, size: int) -> Features:
    """The teacher, of photos of `size` px, enlarged where `spec.pixels` says so. Raises TrainError.

    Enlarged photos have less detail than those it is shown in training.
    """
    return teacher_features(Teacher(make_vit(spec, size)).to(DEVICE))


def teacher_features(teacher: Teacher, *, logits: bool = False) -> Features:
    """The last block after the final norm: `patch_mean`; CLS as `cls`, `embedding` and `teacher`; `logits` if asked."""
    device, spec = next(teacher.parameters()).device, normalisation(teacher.vit)

    def features(pixels: Tensor) -> dict[str, Tensor]:
        patches, cls = teacher(normalise(pixels.to(device), *spec), teacher.blocks)
        found = {"patch_mean": patches.mean(1), "cls": cls, "embedding": cls, "teacher": cls}
        return {**found, "logits": teacher.head(cls)} if logits else found

    return features


@dataclass(frozen=True, eq=False)
class Candidate:
    """A student or a teacher.

    about: `subject`, `variant` (file), `digest` (sha256), `seed` and `hardware` of its results. kinds: of features that
    are measured. digest: of all that they depend on; "" where they are not kept. open: gives the features of photos
    that `preprocessing` prepares, and keeps the model. The teacher and its students have `teacher` too, and `logits` of
    its 1000 classes where it `classifies`. taught: by the teacher that is measured beside it, which saw the photos
    enlarged to `teacher_pixels`.
    """

    about: dict[str, str | int]
    kinds: tuple[str, ...]
    preprocessing: Preprocessing
    digest: str
    costs: dict[str, float | None]
    open: Callable[[], Features]
    taught: bool = False
    teacher_pixels: int | None = None
    classifies: bool = False


def from_run(run: Run, folder: Path) -> Candidate:
    """The student of a finished run in `folder`."""
    return Candidate(
        {"subject": run.report.name, "seed": run.report.seed, "hardware": hardware(DEVICE)},
        ("cls", "patch_mean", "teacher"),
        run.recipe.preprocessing,
        " ".join(_sha256(folder / f"{name}.safetensors") for name in ("student", "head")),
        {"parameters": sum(p.numel() for p in run.student.parameters())},
        cache(partial(of_run, run)),
    )


def from_file(
    card: ModelCard, artifact: Artifact, open_model: Callable[[], Model], teacher: str, head: str
) -> Candidate:
    """A published file. Students of `teacher` are measured in its space; on its classes where their card has `head`."""
    taught = card.training is not None and card.training.teacher.name == teacher
    found = card.head(head) if taught else None
    logits = found.output if found is not None and len(found.labels) == 1000 else None
    about = {"subject": card.id, "variant": artifact.file, "digest": artifact.sha256}
    return Candidate(
        {**about, "hardware": hardware(torch.device("cpu"))},
        ("embedding", "teacher"),
        card.preprocessing,
        " ".join([*(file.sha256 for file in artifact.files), *([logits] if logits else [])]),
        {"parameters": card.parameters, "bytes": artifact.total_bytes, "pixels": card.preprocessing.size},
        cache(lambda: of_artifact(open_model(), logits)),
        taught,
        card.training.teacher.pixels if card.training else None,
        logits is not None,
    )


def from_zoo(folder: Path, teacher: str, head: str) -> list[Candidate]:
    """Every file of the zoo in `folder`, in the order of its index. Raises InvalidCard and InvalidArgument."""
    place = Zoo(zoo_folder(folder))
    return [
        from_file(card, artifact, partial(open_artifact, place, card, artifact), teacher, head)
        for card in map(place.card, place.index().models)
        for artifact in card.artifacts
    ]


def from_teacher(spec: recipe.TeacherSettings, preprocessing: Preprocessing) -> Candidate:
    """The teacher, given photos as `preprocessing` says, and enlarged where spec.pixels says so. Raises TrainError."""
    size, enlarged = preprocessing.size, f", enlarged to {spec.pixels} px" if spec.pixels else ""
    vit = check_teacher(spec, size)
    file = fetch_weights(spec.model) if spec.pretrained else Path(str(spec.checkpoint))
    subject, sha256 = f"{spec.model} at {size} px{enlarged}", _sha256(file)

    def features() -> Features:
        teacher = Teacher(make_vit(spec, size)).to(DEVICE)
        return teacher_features(teacher, logits=teacher.classes == 1000)

    return Candidate(
        {"subject": subject, "variant": file.name, "digest": sha256, "hardware": hardware(DEVICE)},
        ("embedding",),
        preprocessing,
        f"{sha256} {spec.pixels}",
        {"parameters": sum(p.numel() for p in vit.parameters()), "bytes": file.stat().st_size, "pixels": size},
        cache(features),
        classifies=vit.num_classes == 1000,
    )


def teachers_of(students: Sequence[Candidate], spec: recipe.TeacherSettings) -> list[Candidate]:
    """The teacher at its own resolution, then at that of its students. Raises TrainError."""
    config = timm.get_pretrained_cfg(spec.model)
    size = config.input_size[-1] if config else 224
    own = Preprocessing(size=size, short_side=math.floor(size / config.crop_pct) if config else size)
    taught = {student.preprocessing.size: student.preprocessing for student in students if student.taught}
    return [from_teacher(spec, preprocessing) for preprocessing in ({size: own} | taught).values()]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
