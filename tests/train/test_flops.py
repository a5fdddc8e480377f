"""The share that early exit saves, against a calculation by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from train.distill import Distiller
from train.flops import count, student_flops, teacher_flops

IMAGE = torch.zeros(1, 3, 32, 32)
TOKENS, WIDTH = 1 + 16, 48  # of the tiny teacher
BLOCK = 2 * TOKENS * WIDTH * WIDTH * 12 + 2 * 2 * TOKENS * TOKENS * WIDTH  # qkv 3, out 1, MLP 8; two attention products
PATCHES = 2 * 16 * WIDTH * 3 * 8 * 8


def test_teacher_flops__are_those_of_its_matrix_products(make_distiller: Callable[..., Distiller]) -> None:
    assert teacher_flops(make_distiller(), IMAGE) == [PATCHES + block * BLOCK for block in range(1, 13)]


def test_student_flops__are_about_three_forward_passes(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        distiller.views(IMAGE)
    assert 2.8 < student_flops(distiller, IMAGE) / counter.get_total_flops() <= 3
    assert all(parameter.grad is None for parameter in distiller.parameters())


def test_saving__is_the_hand_calculation(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller()
    distiller.block_images = [64, 0, 48] + [0] * 8 + [80]
    distiller.calibration_images = 16
    depths = [PATCHES + block * BLOCK for block in range(1, 13)]
    run = 4 * depths[0] + 3 * depths[2] + 5 * depths[11] + depths[11]
    cost = count(distiller)
    assert cost.teacher == 16 * run
    assert cost.teacher_full == 16 * 12 * depths[11]
    assert cost.teacher_saved == pytest.approx(1 - run / (12 * depths[11]))
    student = 16 * 12 * student_flops(distiller, IMAGE)
    assert cost.total == cost.teacher + student
    assert cost.total_saved == pytest.approx(1 - cost.total / (cost.teacher_full + student))
    assert 0 < cost.total_saved < cost.teacher_saved < 1


def test_saving__of_the_whole_teacher_is_nothing(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller(curriculum={"strategy": "last"})
    distiller.block_images = [0] * 11 + [14]
    assert count(distiller).teacher_saved == 0
