"""What a run costs: floating-point operations of teacher and student, by one counter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from train.method.distiller import Distiller
from train.method.teacher import Teacher


@dataclass(frozen=True)
class Cost:
    """FLOPs of a run (multiply and add count as two), and of the same run with all blocks of both at every step."""

    teacher: float
    student: float
    teacher_full: float
    student_full: float

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
        """The share of all FLOPs that was not run, by teacher or student."""
        return 1 - self.total / (self.teacher_full + self.student_full)


def count(
    distiller: Distiller, teacher: Teacher, block_images: Sequence[int], calibration_images: int, size: int
) -> Cost:
    """FLOPs per image of each depth that was run, times the images it was run for.

    block_images: for each block k, images for which the target was k. size: side of the student's photos.
    """
    image = torch.zeros(1, 3, size, size, device=next(distiller.parameters()).device)
    teachers = teacher_flops(teacher, image)
    students = [
        student_flops(distiller, image, block + 1) if images else 0 for block, images in enumerate(block_images)
    ]
    full = student_flops(distiller, image, teacher.blocks)
    images = sum(block_images)
    return Cost(
        teacher=sum(n * flops for n, flops in zip(block_images, teachers, strict=True))
        + calibration_images * teachers[-1],
        student=sum(n * flops for n, flops in zip(block_images, students, strict=True)),
        teacher_full=images * teachers[-1],
        student_full=images * full,
    )


def teacher_flops(teacher: Teacher, image: Tensor) -> list[int]:
    """FLOPs of one image (1, 3, H, W) through blocks 1..k, for every k; counted by running them."""
    return [count_flops(partial(teacher, image, k)) for k in range(1, teacher.blocks + 1)]


def student_flops(distiller: Distiller, image: Tensor, block: int) -> int:
    """FLOPs of one image through student and projections, forward and backward, while `block` is the target."""
    targets = tuple(range(1, distiller.blocks + 1)) if len(distiller.others) else (block,)

    def step() -> None:
        torch.stack([view.patches.sum() + view.cls.sum() for view in distiller.views(image, targets)]).sum().backward()
        distiller.zero_grad()

    return count_flops(step)


def count_flops(call: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions of `call`; a multiply and an add count as two."""
    # Fused attention kernels are opaque to the counter on some devices; the plain one is matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return int(counter.get_total_flops())
