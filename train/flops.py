"""What a run costs: floating-point operations of teacher and student, by one counter."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.counter import count_flops
from train.distill import Distiller


@dataclass(frozen=True)
class Cost:
    """FLOPs of a run (multiply and add count as two) and of the same run with the whole teacher at every step."""

    teacher: float
    student: float
    teacher_full: float

    @property
    def total(self) -> float:
        """Teacher forward, student forward and backward."""
        return self.teacher + self.student

    @property
    def teacher_saved(self) -> float:
        """The share of the teacher's FLOPs that early exit did not run, 0..1 (negative: calibration cost more)."""
        return 1 - self.teacher / self.teacher_full

    @property
    def total_saved(self) -> float:
        """The same, as a share of everything."""
        return 1 - self.total / (self.teacher_full + self.student)


def count(distiller: Distiller) -> Cost:
    """Count a finished run: FLOPs per image of each depth that was run, times the images it was run for."""
    size = distiller.spec.preprocessing.size
    image = torch.zeros(1, 3, size, size, device=distiller.device)
    depths = teacher_flops(distiller, image)
    teacher = sum(images * flops for images, flops in zip(distiller.block_images, depths, strict=True))
    images = sum(distiller.block_images)
    return Cost(
        teacher=teacher + distiller.calibration_images * depths[-1],
        student=images * student_flops(distiller, image),
        teacher_full=images * depths[-1],
    )


def teacher_flops(distiller: Distiller, image: torch.Tensor) -> list[int]:
    """FLOPs of one image (1, 3, H, W) through blocks 1..k, for every k; counted by running them."""
    return [count_flops(lambda k=k: distiller.teacher(image, k)) for k in range(1, distiller.teacher.blocks + 1)]


def student_flops(distiller: Distiller, image: torch.Tensor) -> int:
    """FLOPs of one image through student and projection, forward and backward."""

    def step() -> None:
        sum(view.patches.sum() + view.cls.sum() for view in distiller.views(image)).backward()
        distiller.zero_grad()

    return count_flops(step)
