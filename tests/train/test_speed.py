"""The measuring command on a tiny recipe: what it writes, and that its ratios are those of its rates."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from train.recipe import Recipe
from train.speed import EXIT, SPEED, STEPS, early_exit, main, speed


@pytest.fixture
def small(tree: Callable[[], dict]) -> Recipe:
    """The tiny recipe of these tests."""
    return msgspec.convert(tree(), Recipe)


def test_speed__compares_every_variant_with_the_plain_loop_of_its_round(small: Recipe) -> None:
    rows = speed(small, [STEPS[0], STEPS[4]], torch.device("cpu"), steps=1, rounds=1)
    plain, fast = (dict(zip(SPEED, row, strict=True)) for row in rows)
    assert plain["ratio"] == "1.00"
    expected = float(fast["images_per_second"]) / float(plain["images_per_second"])
    assert float(fast["ratio"]) == pytest.approx(expected, rel=0.02)
    assert "CPU threads" in fast["hardware"]


def test_early_exit__predicts_from_student_and_share_of_the_teacher(small: Recipe) -> None:
    rows = [dict(zip(EXIT, row, strict=True)) for row in early_exit(small, torch.device("cpu"), steps=1, rounds=1)]
    assert [row["block"] for row in rows] == [1, 3, 6, 9, 12]
    predicted = [float(row["predicted"]) for row in rows]
    assert predicted == sorted(predicted)
    steps = [after - before for before, after in itertools.pairwise(predicted[1:])]  # three blocks each
    assert max(steps) - min(steps) < 0.3  # a straight line, in rounded milliseconds
    assert all(float(row["milliseconds"]) > 0 for row in rows)


def test_command__names_an_unknown_recipe(capsys: pytest.CaptureFixture) -> None:
    assert main(["refrence"]) == 2
    assert "did you mean `reference`" in capsys.readouterr().err


def test_command__writes_both_tables(tmp_path: Path) -> None:
    assert (
        main(["digits", "--steps", "1", "--rounds", "1", "--no-compile", "--device", "cpu", "--out", str(tmp_path)])
        == 0
    )
    for name, header in (("training_speed.csv", SPEED), ("early_exit.csv", EXIT)):
        with (tmp_path / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == header
        assert len(rows) >= 5
