"""The cost of a run: floating-point operations of teacher and student, from one counter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from train.method.distiller import Distiller
from train.method.teacher import Teacher


class Cost(NamedTuple):
    """FLOPs of a run, and the share that early exit and growing save over running all blocks at every step."""

    teacher_flops: int
    total_flops: int  # teacher forward, student forward and backward
    teacher_flops_saved: float  # share, 0..1; negative where calibration cost more than was saved
    total_flops_saved: float


def count(
    distiller: Distiller, teacher: Teacher, block_images: Sequence[int], calibration_images: int, size: int
) -> Cost:
    """FLOPs per image of each depth that was run, times the images it was run for.

    block_images: for each block k, images for which the target was k. size: side of the student's photos.
    """
    image = torch.zeros(1, 3, size, size, device=next(distiller.parameters()).device)
    whole = count_flops(partial(teacher, image, teacher.blocks))
    by_teacher, by_student = calibration_images * whole, 0
    for block, images in enumerate(block_images, 1):
        if images:
            by_teacher += images * count_flops(partial(teacher, image, block))
            by_student += images * student_flops(distiller, image, block)
    full_teacher = sum(block_images) * whole
    full = full_teacher + sum(block_images) * student_flops(distiller, image, teacher.blocks)
    total = by_teacher + by_student
    return Cost(by_teacher, total, 1 - by_teacher / full_teacher, 1 - total / full)


def student_flops(distiller: Distiller, image: Tensor, block: int) -> int:
    """FLOPs of an image (1, 3, H, W) through student and projections, forward and backward, at the target `block`."""
    targets = tuple(range(1, distiller.blocks + 1)) if len(distiller.others) else (block,)

    def step() -> None:
        sums = torch.stack([view.patches.sum() + view.cls.sum() for view in distiller.views(image, targets)])
        if sums.requires_grad:  # not of a frozen student
            sums.sum().backward()
            distiller.zero_grad()

    return count_flops(step)


def count_flops(call: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions of `call`; a multiply and an add count as two."""
    # Fused attention kernels are opaque to the counter on some devices; the plain one is matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return int(counter.get_total_flops())
