"""A teacher's figures are measured once: its next student, and a resumed run, find them; another teacher does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from leap_zoo.card import Metric
from train import data, reference
from train.recipe import Recipe

FIGURE = Metric(name="10-NN", dataset="drawn", split="val", n=18, value=0.5)


@pytest.fixture
def asked(tree: Callable[[], dict], photo_folders: Path, tmp_path: Path) -> Callable[..., int]:
    """Ask for the figures of a run, with parts of the recipe replaced: how many times they were measured."""

    def ask(run: str, **parts: dict) -> int:
        values = tree()
        for key, part in ({"data": {}} | parts).items():
            values[key] = {**values[key], **part} if isinstance(part, dict) else part
        values["data"] |= {key: str(photo_folders / key) for key in ("train", "val")}
        recipe, measured = msgspec.convert(values, Recipe), []

        def measure() -> list[Metric]:
            measured.append(1)
            return [FIGURE]

        found = reference.of_teacher(recipe, data.find_splits(recipe.data), tmp_path / run, measure)
        assert found == [FIGURE]
        return len(measured)

    return ask


def test_teacher__is_measured_once_for_all_its_students(asked: Callable[..., int]) -> None:
    assert asked("nano") == 1
    assert asked("nano") == 0
    assert asked("micro", epochs=7, student={"size": "micro"}) == 0
    assert asked("micro", epochs=7, student={"size": "micro"}) == 0  # its own copy


@pytest.mark.parametrize(
    "parts",
    [{"teacher": {"pixels": 64}}, {"preprocessing": {"size": 40, "short_side": 40}}, {"data": {"held_out": "away*"}}],
    ids=["other pixels", "other preprocessing", "other photos"],
)
def test_teacher__of_other_figures_is_measured_anew(asked: Callable[..., int], parts: dict) -> None:
    assert asked("nano") == 1
    assert asked("other", **parts) == 1


def test_broken_file__is_measured_anew(asked: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / reference.FILE).write_text("{")
    assert asked("nano") == 1
    assert asked("micro") == 0
