"""A teacher embeds photos once: its next student, and a resumed run, find the embeddings; another teacher does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from leap_zoo.card import Metric
from train.data.splits import find_splits
from train.evaluate import standard, survey
from train.evaluate.standard import Standard
from train.method.teacher import Teacher
from train.recipe import Recipe

Asked = Callable[..., tuple[int, list[Metric]]]


@pytest.fixture
def asked(
    make_recipe: Callable[..., Recipe],
    teacher: Teacher,
    photo_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Asked:
    """Ask for the teacher's figures of a recipe with these parts replaced: how many sets it embedded, the figures."""
    embedded: list[str] = []
    extract = survey.extract
    monkeypatch.setattr(survey, "extract", lambda *given: embedded.append(given[2]) or extract(*given))

    def ask(teacher: Teacher = teacher, /, **parts: object) -> tuple[int, list[Metric]]:
        folders = {key: str(photo_folders / key) for key in ("train", "val")} | {"store": str(tmp_path)}
        recipe = make_recipe(**{**parts, "data": {**folders, **parts.get("data", {})}})
        embedded.clear()
        found = find_splits(recipe.data)
        metrics = Standard(recipe, found, found.train, teacher).of_teacher()
        return len(embedded), metrics

    return ask


def test_teacher__embeds_once_for_all_its_students(asked: Asked) -> None:
    count, metrics = asked()
    assert count == 2  # train and val
    assert metrics[-1].name == "top-1 of 3 classes"
    assert asked() == (0, metrics)
    assert asked(epochs=7, student={"size": "micro"}) == (0, metrics)


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        ({"teacher": {"pixels": 64}}, 2),
        ({"preprocessing": {"size": 40, "short_side": 40}}, 2),
        ({"data": {"held_out": "away*"}}, 1),  # of train; val is the same
    ],
    ids=["other pixels", "other preprocessing", "other photos"],
)
def test_teacher__with_other_figures_embeds_again(asked: Asked, parts: dict, count: int) -> None:
    assert asked()[0] == 2
    assert asked(**parts)[0] == count


def test_teacher__with_other_weights_embeds_again(asked: Asked, make_teacher: Callable[..., Teacher]) -> None:
    other = make_teacher(num_classes=3)
    assert asked()[0] == 2
    assert asked(other)[0] == 0
    with torch.no_grad():
        other.vit.head.bias[0] += 100
    assert asked(other)[0] == 2


def test_broken_file__is_embedded_again(asked: Asked, tmp_path: Path) -> None:
    count, metrics = asked()
    for file in tmp_path.glob("*.safetensors"):
        file.write_text("{")
    assert asked() == (count, metrics)
    assert asked() == (0, metrics)


def test_store__that_is_read_only_keeps_nothing(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard.os, "access", lambda *_: False)
    assert asked() == asked()


def test_student_and_teacher__are_compared_on_photos_kept_aside(asked: Asked) -> None:
    _, metrics = asked(data={"holdout": 6})
    aside = [(metric.name, metric.split, metric.n, metric.value) for metric in metrics[-2:]]
    where = ("one in 6, kept aside", 6)
    assert aside == [
        ("cosine to the teacher", *where, pytest.approx(1)),
        ("top-1 agreement with the teacher", *where, 1),
    ]
