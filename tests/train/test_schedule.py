"""The learning rate of each step, against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from train.method.curriculum import Move
from train.method.schedule import last_block_share, schedule
from train.recipe import Recipe


def rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    share = schedule(recipe, steps_per_epoch)
    return [share(step) for step in range(recipe.epochs * steps_per_epoch)]


def test_cosine__warms_up_then_falls_to_its_final_share_at_the_last_step(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(epochs=2, optimizer={"warmup_epochs": 0.5, "final_share": 0.1})
    found = rates(recipe, 4)  # 8 steps, 2 of them warm up; the cosine is over the 6 others
    assert found[:3] == pytest.approx([0.5, 1.0, 1.0])
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 5)) for step in range(6)]
    assert found[2:] == pytest.approx(expected)
    assert found[7] == pytest.approx(0.1)


@pytest.mark.parametrize(("epochs", "warmup"), [(5, 2), (20, 8), (100, 40), (200, 40)])
def test_warmup__is_a_tenth_of_the_epochs_and_ten_at_most(
    make_recipe: Callable[..., Recipe], epochs: int, warmup: int
) -> None:
    found = rates(make_recipe(epochs=epochs), 4)
    assert found[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    assert found[warmup] == 1 > found[warmup + 1]


def test_last_block__is_constant_until_the_share_of_the_last_block_begins(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(
        epochs=10,
        curriculum={"strategy": "leap-grow", "last_share": 0.25},
        optimizer={"decay": "last-block", "warmup_epochs": 1, "final_share": 0.01},
    )
    found = rates(recipe, 4)  # 40 steps: 4 of warm-up, 10 of the last block
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4:31] == [1.0] * 27  # the first step of the decay has the whole rate
    assert found[31] < 1
    expected = [0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(10)]
    assert found[30:] == pytest.approx(expected)
    assert found[39] == pytest.approx(0.01)


def test_last_block__of_a_strategy_without_a_share_takes_the_recipes(make_recipe: Callable[..., Recipe]) -> None:
    rule = {"decay": "last-block", "decay_share": 0.5, "warmup_epochs": 0}
    found = rates(make_recipe(epochs=2, curriculum={"strategy": "last"}, optimizer=rule), 4)
    assert found[:5] == [1.0] * 5
    assert found[4:] == sorted(found[4:], reverse=True)
    own = {"strategy": "linear", "last_share": 0.25}
    assert rates(make_recipe(epochs=2, curriculum=own, optimizer=rule), 4) == found


def test_rate_share__of_the_last_block_is_its_part_of_the_integral() -> None:
    moves = [Move(0, 1), Move(4, 2), Move(6, 3)]
    rate = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.25]
    assert last_block_share(rate.__getitem__, moves, 3, 10) == pytest.approx(2 / 8)
    assert last_block_share(rate.__getitem__, moves[:2], 2, 10) == pytest.approx(4 / 8)
    assert last_block_share(rate.__getitem__, moves[:2], 3, 10) == 0
    assert last_block_share(rate.__getitem__, [Move(0, 3)], 3, 10) == 1
    assert last_block_share(rate.__getitem__, [*moves[:2], Move(10, 3)], 3, 10) == 0  # moved after the very last step
