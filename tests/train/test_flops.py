"""The share that early exit saves, against a calculation by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from train.method.distiller import Distiller
from train.method.flops import count, count_flops, student_flops
from train.method.teacher import Teacher

IMAGE = torch.zeros(1, 3, 32, 32)
TOKENS, WIDTH = 1 + 16, 48  # of the tiny teacher, and of the student, which has its shape
BLOCK = 2 * TOKENS * WIDTH * WIDTH * 12 + 2 * 2 * TOKENS * TOKENS * WIDTH  # qkv 3, out 1, MLP 8; two attention products
PATCHES = 2 * 16 * WIDTH * 3 * 8 * 8
PROJECTION = 2 * TOKENS * WIDTH * WIDTH


def student_step(depth: int) -> int:
    """Forward, and twice as much backward but for the gradient of the photo, which nobody asks for."""
    return 3 * (PATCHES + depth * BLOCK + PROJECTION) - PATCHES


def test_teacher_flops__are_those_of_its_matrix_products(teacher: Teacher) -> None:
    for block in range(1, 13):
        assert count_flops(partial(teacher, IMAGE, block)) == PATCHES + block * BLOCK


def test_student_flops__are_three_forward_passes(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller()
    assert [student_flops(distiller, IMAGE, block) for block in (1, 12)] == [student_step(12)] * 2
    assert all(parameter.grad is None for parameter in distiller.parameters())


def test_student_flops__of_a_growing_one_are_of_the_blocks_that_it_runs(
    make_distiller: Callable[..., Distiller],
) -> None:
    distiller = make_distiller(curriculum={"strategy": "leap-grow"})
    assert [student_flops(distiller, IMAGE, block) for block in (1, 5, 12)] == [student_step(d) for d in (1, 5, 12)]


def test_student_flops__of_one_to_one_have_a_projection_per_block(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller(curriculum={"strategy": "one-to-one"})
    assert student_flops(distiller, IMAGE, 12) == student_step(12) + 11 * 3 * PROJECTION


@pytest.mark.parametrize("strategy", ["leap", "leap-grow"])
def test_saving__is_the_hand_calculation(
    make_distiller: Callable[..., Distiller], teacher: Teacher, strategy: str
) -> None:
    distiller = make_distiller(curriculum={"strategy": strategy})
    depths = [PATCHES + block * BLOCK for block in range(1, 13)]
    images = {1: 64, 3: 48, 12: 80}
    cost = count(distiller, teacher, [images.get(block, 0) for block in range(1, 13)], 16, 32)
    assert cost.teacher_flops == sum(n * depths[block - 1] for block, n in images.items()) + 16 * depths[11]
    grown = strategy == "leap-grow"
    student = sum(n * student_step(block if grown else 12) for block, n in images.items())
    assert cost.total_flops == cost.teacher_flops + student
    assert cost.teacher_flops_saved == pytest.approx(1 - cost.teacher_flops / (192 * depths[11]))
    assert cost.total_flops_saved == pytest.approx(1 - cost.total_flops / (192 * (depths[11] + student_step(12))))
    assert 0.2 < cost.teacher_flops_saved < 1
    assert cost.total_flops_saved > 0.4 if grown else cost.total_flops_saved < cost.teacher_flops_saved / 2


def test_saving__of_the_whole_teacher_is_nothing(make_distiller: Callable[..., Distiller], teacher: Teacher) -> None:
    cost = count(make_distiller(curriculum={"strategy": "last"}), teacher, [0] * 11 + [14], 0, 32)
    assert (cost.teacher_flops_saved, cost.total_flops_saved) == (0, 0)
