"""A teacher's figures are measured once: its next student, and a resumed run, find them; another teacher does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leap_zoo.card import Metric
from train.data.splits import find_splits
from train.data.store import Photos
from train.evaluate import standard
from train.method.teacher import Teacher
from train.recipe import Recipe

FIGURE = Metric(name="10-NN", dataset="drawn", split="val", n=18, value=0.5)


@pytest.fixture
def asked(
    make_recipe: Callable[..., Recipe],
    teacher: Teacher,
    photo_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., int]:
    """Ask for the figures of a recipe with these parts replaced: how many times they were measured."""
    measured: list[int] = []
    monkeypatch.setattr(standard, "measure", lambda *_: measured.append(1) or ([FIGURE], "cls", None))
    none = Photos(np.empty((0, 1, 1, 3), np.uint8), np.empty(0, np.int64), (), np.empty(0, np.float32))

    def ask(**parts: object) -> int:
        folders = {key: str(photo_folders / key) for key in ("train", "val")} | {"store": str(tmp_path)}
        recipe = make_recipe(**{**parts, "data": {**folders, **parts.get("data", {})}})
        measured.clear()
        judged = standard.Judged(none, none, None)
        assert standard.of_teacher(recipe, find_splits(recipe.data), judged, teacher) == [FIGURE]
        return len(measured)

    return ask


def test_teacher__is_measured_once_for_all_its_students(asked: Callable[..., int]) -> None:
    assert asked() == 1
    assert asked() == 0
    assert asked(epochs=7, student={"size": "micro"}) == 0


@pytest.mark.parametrize(
    "parts",
    [{"teacher": {"pixels": 64}}, {"preprocessing": {"size": 40, "short_side": 40}}, {"data": {"held_out": "away*"}}],
    ids=["other pixels", "other preprocessing", "other photos"],
)
def test_teacher__of_other_figures_is_measured_anew(asked: Callable[..., int], parts: dict) -> None:
    assert asked() == 1
    assert asked(**parts) == 1


def test_broken_file__is_measured_anew(asked: Callable[..., int], tmp_path: Path) -> None:
    assert asked() == 1
    (file,) = tmp_path.glob("teacher-*.json")
    file.write_text("{")
    assert asked() == 1
    assert asked() == 0


def test_store__that_is_gone_keeps_nothing(asked: Callable[..., int], tmp_path: Path) -> None:
    gone = {"store": str(tmp_path / "gone")}
    assert asked(data=gone) == 1
    assert asked(data=gone) == 1
