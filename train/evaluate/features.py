"""Photos to features: a student of a run folder, an exported file and a teacher, asked the same questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from leap_zoo.model import Model
from train import recipe
from train.errors import TrainError
from train.hardware import DEVICE
from train.method.student import tokens_at
from train.method.teacher import Teacher, make_vit, normalisation
from train.run import Run

Features = Callable[[Tensor], dict[str, Tensor]]  # photos uint8 (B, H, W, 3) -> (B, D) by kind


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
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def pooled(student: VisionTransformer, images: Tensor, depth: int | None = None) -> dict[str, Tensor]:
    """Normalised images (B, 3, H, W) -> `cls` and `patch_mean`, (B, D_s) each; registers are in neither.

    depth: how many of the student's blocks are run; None: all.
    """
    tokens = tokens_at(student, images, [depth or len(student.blocks)])[0]  # (B, prefix + N, D_s)
    return {"cls": tokens[:, 0], "patch_mean": tokens[:, student.num_prefix_tokens :].mean(1)}


def of_run(run: Run) -> Features:
    """The student of a run folder: `cls`, `patch_mean`, and `teacher`, its CLS in the teacher's space."""
    student = run.student.to(DEVICE)
    weight, bias = (run.tensors[f"projection.cls.{key}"].to(DEVICE) for key in ("weight", "bias"))

    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = pooled(student, normalise(pixels.to(DEVICE), run.info.mean, run.info.std))
        return {**found, "teacher": functional.linear(found["cls"], weight, bias)}

    return features


def of_artifact(model: Model, logits: str | None = None) -> Features:
    """An exported file, through the edge runtime: `embedding`, the pooling that its card names, and `teacher`.

    logits: the file's output of the teacher's classes, if these are wanted too.
    """
    outputs = {"embedding": "embedding", "teacher": "teacher_embedding"} | ({"logits": logits} if logits else {})

    def features(pixels: Tensor) -> dict[str, Tensor]:
        found = model.run(pixels.numpy(), list(outputs.values()))
        return {name: torch.from_numpy(found[output]) for name, output in outputs.items()}

    return features


def of_teacher(spec: recipe.Teacher, size: int) -> Features:
    """The teacher, of photos of `size` px, enlarged where `spec.pixels` says so: as it taught. Raises TrainError."""
    return teacher_features(Teacher(make_vit(spec, size)).to(DEVICE))


def teacher_features(teacher: Teacher) -> Features:
    """The last block after the final norm: `cls`, `patch_mean`, and `teacher`, which is CLS again."""
    device, (mean, std) = next(teacher.parameters()).device, normalisation(teacher.vit)

    def features(pixels: Tensor) -> dict[str, Tensor]:
        tokens = teacher(normalise(pixels.to(device), mean, std), teacher.blocks)
        return {"cls": tokens.cls, "patch_mean": tokens.patches.mean(1), "teacher": tokens.cls}

    return features
