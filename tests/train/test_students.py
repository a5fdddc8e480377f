"""The sizes that we publish."""

from __future__ import annotations

import pytest
import torch

from train.errors import TrainError
from train.students import SIZES, make_student


@pytest.mark.parametrize(
    ("size", "millions", "pixels", "patch"), [("nano", 2.5, 160, 16), ("micro", 1.4, 160, 16), ("digits", 0.35, 32, 8)]
)
def test_student__has_the_parameters_that_it_says(size: str, millions: float, pixels: int, patch: int) -> None:
    student = make_student(size, pixels=pixels, patch=patch)
    assert sum(p.numel() for p in student.parameters()) / 1e6 == pytest.approx(millions, rel=0.06)
    assert len(student.blocks) == 12


@pytest.mark.parametrize("size", SIZES)
def test_student__gives_cls_first_then_a_token_per_patch(size: str) -> None:
    student = make_student(size, pixels=48, patch=16)
    assert student.forward_features(torch.zeros(2, 3, 48, 48)).shape == (2, 1 + 9, SIZES[size].width)


def test_student__of_unknown_size_or_patch_is_refused() -> None:
    with pytest.raises(TrainError, match="sizes are digits, micro, nano"):
        make_student("mega", pixels=32, patch=8)
    with pytest.raises(TrainError, match="do not tile"):
        make_student("nano", pixels=40, patch=16)
