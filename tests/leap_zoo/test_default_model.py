"""Which model answers where none is named, and which head answers by default: by the figures of the cards."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from whole_card import whole_card

from leap_zoo.card import CLASSES, GENERAL, WORLD, Head, Metric, ModelCard, Tensor, default_of


def student(name: str, parameters: int, top1: float | None, teacher: float = 0.88) -> ModelCard:
    """A card with a top-1 on photos of the world in every file; None: not measured."""
    card = whole_card()
    assert card.training is not None
    of_teacher = replace(card.training.teacher, metrics={"224 px": [on_world(teacher)]})
    measured = [] if top1 is None else [on_world(top1)]
    general = Head(name="general", output="logits_general", labels=[str(number) for number in range(CLASSES)])
    return replace(
        card,
        id=name,
        heads=[*card.heads, general],
        outputs=[*card.outputs, Tensor(name=general.output, dtype="float32", shape=["batch", CLASSES])],
        parameters=parameters,
        artifacts=[replace(artifact, metrics=[*artifact.metrics, *measured]) for artifact in card.artifacts],
        training=replace(card.training, teacher=of_teacher),
    )


def on_world(top1: float) -> Metric:
    """The figure that decides."""
    return Metric(name=GENERAL, dataset=WORLD, split="test", n=1000, value=top1)


@pytest.mark.parametrize(
    ("figures", "chosen"),
    [
        ({"s": 0.2, "m": 0.71, "l": 0.8}, "m"),  # the smallest that is worth showing, not the best
        ({"s": 0.2, "m": 0.6, "l": 0.5}, "m"),  # none is: the best
        ({"s": None, "m": None, "l": None}, "l"),  # none was measured: the largest
        ({"s": None, "m": 0.3, "l": None}, "m"),
    ],
)
def test_default_model__is_chosen_by_cards(figures: dict[str, float | None], chosen: str) -> None:
    cards = [student(name, 1_000_000 * size, figures[name]) for size, name in enumerate(figures, 1)]
    for order in (cards, cards[::-1]):
        found = default_of(order)
        assert found is not None
        assert found.id == chosen


def test_default_model__needs_a_card() -> None:
    assert default_of([]) is None


def test_default_head__answers_from_half_of_its_teacher() -> None:
    assert not student("s", 1, 0.43).answers
    assert student("s", 1, 0.44).answers
    assert student("s", 1, None).answers  # not measured: nothing speaks against it


def test_default_head__counts_in_the_worst_of_the_files() -> None:
    card = student("s", 1, 0.6)
    first, *others = card.artifacts
    worse = replace(card, artifacts=[replace(first, metrics=[on_world(0.3)]), *others])
    assert (worse.general, worse.answers) == (0.3, False)


def test_default_head__does_not_stand_in_for_a_general_head_that_was_left_out() -> None:
    """As in a zoo to which only the export has written: the teacher's figure comes with `python -m export.cards`."""
    card = student("s", 1, 0.19)
    assert card.training is not None
    unknown = replace(card.training, teacher=replace(card.training.teacher, metrics={}))
    assert replace(card, training=unknown).answers  # with its 1000 classes, nothing is known against it
    assert not replace(card, training=unknown, heads=card.heads[:-1]).answers
