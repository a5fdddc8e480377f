"""The curriculum as a state machine, against a plain model of what the method says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from train import recipe
from train.errors import TrainError
from train.method.curriculum import Curriculum, Leap, LeapGrow, Linear, Move, OneToOne, make


def made_leap(blocks: int, *, steps_per_epoch: int, **settings: float) -> Leap:
    """Not yet calibrated."""
    return Leap(recipe.LeapSettings(**settings), blocks, steps_per_epoch)


similarities = st.floats(0, 1) | st.sampled_from([math.nan, math.inf, -math.inf])


def restored(curriculum: Curriculum, fresh: Curriculum) -> Curriculum:
    """`fresh` with the state of `curriculum`, which has been through a file."""
    fresh.load_state_dict(json.loads(json.dumps(curriculum.state_dict())))
    return fresh


class LeapMachine(RuleBasedStateMachine):
    """Any similarities, with saving and restoring in between; `expected_*` is the model."""

    @initialize(
        first=st.lists(st.floats(0, 1), min_size=1, max_size=6),
        threshold=st.floats(0, 1),
        smoothing=st.floats(0.05, 1),
        max_epochs=st.integers(1, 3),
        steps_per_epoch=st.integers(1, 4),
    )
    def start(self, first: list[float], **settings: float) -> None:
        self.settings = settings
        self.leap = made_leap(len(first), **settings)
        self.leap.calibrate(first)
        self.step = self.ends = 0
        self.average = 0.0
        self.block = first.index(max(first)) + 1

    @rule(similarity=similarities)
    def observe(self, similarity: float) -> None:
        self.step += 1
        self.ends += self.step % self.settings["steps_per_epoch"] == 0  # ends of epochs that the block has seen
        if math.isfinite(similarity):
            share = self.settings["smoothing"]
            self.average = share * similarity + (1 - share) * self.average
        reason = None
        if self.block < self.leap.blocks:
            if self.average >= self.settings["threshold"]:
                reason = "similarity"
            elif self.ends == self.settings["max_epochs"]:
                reason = "timeout"
        move = self.leap.observe(self.step, similarity)
        assert (move.reason if move else None) == reason
        if move:
            self.block += 1
            assert (move.step, move.block, move.similarity) == (self.step, self.block, self.average)
            self.average, self.ends = 0.0, 0

    @rule()
    def save_and_restore(self) -> None:
        self.leap = restored(self.leap, made_leap(self.leap.blocks, **self.settings))

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.leap.block == self.block <= self.leap.blocks

    @invariant()
    def history_moves_by_one(self) -> None:
        blocks = [move.block for move in self.leap.history]
        assert blocks == list(range(blocks[0], self.block + 1))
        assert self.leap.history[0].reason == "calibration"


TestLeapMachine = LeapMachine.TestCase
TestLeapMachine.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


def leap(blocks: int = 4, **options: float) -> Leap:
    """A calibrated curriculum at block 1."""
    curriculum = made_leap(blocks, **{"max_epochs": 3, "steps_per_epoch": 10, **options})
    curriculum.calibrate([0.5] + [0.1] * (blocks - 1))
    return curriculum


def test_leap__times_out_at_ends_of_epochs_of_which_a_begun_one_counts() -> None:
    curriculum = leap(blocks=4, max_epochs=2)
    similarity = {25: 0.9}  # block 2 begins within the third epoch
    moves = [
        (step, move.reason) for step in range(1, 61) if (move := curriculum.observe(step, similarity.get(step, 0)))
    ]
    assert moves == [(20, "timeout"), (25, "similarity"), (40, "timeout")]


def test_leap__moves_at_the_first_step_that_reaches_the_threshold() -> None:
    curriculum = leap()
    assert curriculum.observe(1, 0.849) is None
    assert curriculum.observe(2, 0.85) == Move(2, 2, 0.85, "similarity")


def test_leap__forgets_the_average_when_it_moves() -> None:
    curriculum = leap(smoothing=0.5, threshold=0.4)
    assert curriculum.observe(1, 1.0) is not None  # average .5
    assert curriculum.observe(2, 0.7) is None  # .35; with the old average it would be .6


def test_leap__one_similarity_that_is_not_finite_does_not_freeze_it() -> None:
    curriculum = leap(max_epochs=1, steps_per_epoch=2)
    assert curriculum.observe(1, math.nan) is None
    assert curriculum.observe(2, math.inf).reason == "timeout"
    assert curriculum.observe(3, 0.9).reason == "similarity"


def test_leap__stays_on_the_last_block() -> None:
    curriculum = leap(blocks=2, max_epochs=1, steps_per_epoch=1)
    curriculum.observe(1, 0.0)
    assert all(curriculum.observe(step, 1.0) is None for step in range(2, 9))
    assert curriculum.block == 2


@given(st.lists(similarities, min_size=1, max_size=12), st.booleans())
def test_calibration__picks_the_first_of_the_most_similar_finite_blocks(values: list[float], grow: bool) -> None:
    blocks = len(values)
    spec = recipe.LeapGrowSettings(start="calibrated") if grow else recipe.LeapSettings()
    curriculum = make(spec, blocks, steps_per_epoch=1, epochs=9)
    assert not curriculum.history
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        with pytest.raises(TrainError, match="finite"):
            curriculum.calibrate(values)
        return
    curriculum.calibrate(values)
    assert curriculum.block == values.index(max(finite)) + 1
    assert curriculum.history == [Move(0, curriculum.block, max(finite), "calibration")]


@given(st.integers(1, 24), st.lists(similarities, max_size=30))
def test_last__never_moves(blocks: int, values: list[float]) -> None:
    curriculum = make(recipe.LastSettings(), blocks, steps_per_epoch=1, epochs=30)
    assert not any(curriculum.observe(step, value) for step, value in enumerate(values, 1))
    assert curriculum.block == blocks
    assert [(move.block, move.reason) for move in curriculum.history] == [(blocks, "start")]


def test_state__of_a_fresh_curriculum_is_not_started() -> None:
    fresh = made_leap(4, max_epochs=2, steps_per_epoch=2)
    assert not fresh.history
    assert restored(leap(), fresh).history == leap().history


class PlateauMachine(RuleBasedStateMachine):
    """Any similarities of steps 1, 2, ... (some not finite) against the definition, computed anew each time.

    There are so many blocks and steps that only a plateau moves the target.
    """

    @initialize(steps=st.integers(1, 5), rise=st.floats(0, 0.2))
    def start(self, steps: int, rise: float) -> None:
        spec = recipe.LeapGrowSettings(plateau_steps=steps, plateau_rise=rise)
        self.curriculum, self.steps, self.rise = LeapGrow(spec, 1000, 10**9), steps, rise
        self.step, self.since, self.seen = 0, 0, {}

    @rule(similarity=similarities, ahead=st.integers(1, 3))
    def observe(self, similarity: float, ahead: int) -> None:
        self.step += ahead
        if math.isfinite(similarity):
            self.seen[self.step] = similarity
        newer = [v for at, v in self.seen.items() if self.step - self.steps < at]
        older = [v for at, v in self.seen.items() if self.step - 2 * self.steps < at <= self.step - self.steps]
        level = bool(newer and older) and sum(newer) / len(newer) - sum(older) / len(older) < self.rise
        expected = level and self.step - self.since >= 2 * self.steps
        move = self.curriculum.observe(self.step, similarity)
        assert (move.reason if move else None) == ("plateau" if expected else None)
        if move:
            self.since, self.seen = self.step, {}


TestPlateauMachine = PlateauMachine.TestCase
TestPlateauMachine.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


def test_plateau__fires_at_the_first_step_whose_means_are_less_than_the_rise_apart() -> None:
    # Similarities .1, .2, ... .5, then .5 for ever. After step t the means of the newest two and of the two before are
    # t=4: .35 - .15 = .2; t=5: .45 - .25 = .2; t=6: .5 - .35 = .15; t=7: .5 - .45 = .05; t=8: 0
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5]
    for rise, first in ((0.25, 4), (0.16, 6), (0.06, 7), (0.01, 8)):
        curriculum = LeapGrow(recipe.LeapGrowSettings(plateau_steps=2, plateau_rise=rise), 12, 10_000)
        assert next(step for step, v in enumerate(values, 1) if curriculum.observe(step, v)) == first


class GrowMachine(RuleBasedStateMachine):
    """Whatever the similarities do: the last block comes no later than its share begins, and targets only deepen."""

    @initialize(
        first=st.none() | st.lists(st.floats(0, 1), min_size=8, max_size=8),
        blocks=st.integers(1, 8),
        steps=st.integers(1, 60),
        last_share=st.floats(0, 1),
        plateau=st.tuples(st.integers(1, 6), st.floats(0, 1)),
    )
    def start(
        self, first: list[float] | None, blocks: int, steps: int, last_share: float, plateau: tuple[int, float]
    ) -> None:
        spec = recipe.LeapGrowSettings(
            last_share=last_share,
            start=1 if first is None else "calibrated",
            plateau_steps=plateau[0],
            plateau_rise=plateau[1],
        )
        self.fresh: Callable[[], LeapGrow] = lambda: LeapGrow(spec, blocks, steps)
        self.grow, self.twin = self.fresh(), self.fresh()  # the twin is never restored
        if first is not None:
            for each in (self.grow, self.twin):
                each.calibrate(first[:blocks])
        self.step, self.ramp, self.plateau = 0, round(steps * (1 - last_share)), plateau[0]

    @rule(similarity=similarities, ahead=st.integers(1, 4))
    def observe(self, similarity: float, ahead: int) -> None:
        self.step += ahead
        before, entered = self.grow.block, self.grow.history[-1].step
        move = self.grow.observe(self.step, similarity)
        self.twin.observe(self.step, similarity)
        if move is None:
            assert self.grow.block == before
            return
        assert move.step == self.step
        assert move.block > before
        assert move.reason in ("budget", "plateau")
        if move.reason == "plateau":
            assert move.block == before + 1
            assert self.step - entered >= 2 * self.plateau

    @rule()
    def save_and_restore(self) -> None:
        self.grow = restored(self.grow, self.fresh())

    @invariant()
    def the_last_block_has_its_share(self) -> None:
        if self.step >= max(1, self.ramp):
            assert self.grow.block == self.grow.blocks
        assert 1 <= self.grow.block <= self.grow.blocks

    @invariant()
    def a_resumed_one_makes_the_same_moves(self) -> None:
        assert self.grow.history == self.twin.history


TestGrowMachine = GrowMachine.TestCase
TestGrowMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def grow(blocks: int, *, steps: int = 100, **options: object) -> LeapGrow:
    """From block 1: 100 steps, 70 of them for the ramp; a plateau of 2 x 5 steps."""
    return LeapGrow(recipe.LeapGrowSettings(**{"plateau_steps": 5, "plateau_rise": 0.01, **options}), blocks, steps)


def test_grow__shares_the_ramp_out_equally_while_the_similarity_rises() -> None:
    curriculum = grow(blocks=8)
    moves = [step for step in range(1, 101) if curriculum.observe(step, step / 100)]
    assert moves == [10, 20, 30, 40, 50, 60, 70]
    assert {move.reason for move in curriculum.history[1:]} == {"budget"}


def test_grow__a_plateau_leaves_its_steps_to_deeper_blocks() -> None:
    curriculum = grow(blocks=4)  # shares of 70 / 3
    moves = [step for step in range(1, 101) if curriculum.observe(step, 0.5 if step <= 10 else step / 100)]
    assert moves == [10, 40, 70]  # block 1 is level after 10 steps: the others have 60 / 2 each
    assert [move.reason for move in curriculum.history[1:]] == ["plateau", "budget", "budget"]


def test_grow__skips_blocks_rather_than_miss_the_last() -> None:
    curriculum = grow(blocks=12, steps=5, last_share=0.4)
    blocks = [curriculum.block]
    for step in range(1, 6):
        curriculum.observe(step, 0.0)
        blocks.append(curriculum.block)
    assert blocks[3:] == [12, 12, 12]
    assert blocks == sorted(blocks)


def test_grow__starts_where_it_is_told_and_at_the_end_where_there_is_no_ramp() -> None:
    assert grow(blocks=12, start=7).block == 7
    assert grow(blocks=12, last_share=1.0).block == 12
    with pytest.raises(TrainError, match=r"curriculum.start=13: the teacher's blocks are 1 to 12"):
        grow(blocks=12, start=13)


@pytest.mark.parametrize(("blocks", "depths"), [(12, [1, 2, 6, 12]), (24, [1, 1, 3, 12]), (4, [3, 6, 12])])
def test_depth__of_a_growing_student_is_in_proportion_to_its_target(blocks: int, depths: list[int]) -> None:
    curriculum = grow(blocks=blocks)
    targets = [1, 2, 6, blocks] if blocks > 4 else [1, 2, 4]
    assert [curriculum.depth(target, 12) for target in targets] == depths
    assert [grow(blocks=blocks, grow=False).depth(target, 12) for target in targets] == [12] * len(targets)
    assert Linear(blocks, 9, 0.3).depth(1, 12) == 12


@given(st.integers(1, 24), st.integers(1, 300), st.floats(0, 1))
def test_linear__is_a_ramp_that_ends_with_the_last_blocks_share(blocks: int, steps: int, last_share: float) -> None:
    curriculum, seen = Linear(blocks, steps, last_share), []
    seen.append(curriculum.block)
    for step in range(1, steps + 1):
        curriculum.observe(step, math.nan)
        seen.append(curriculum.block)
        if step == steps // 2:
            curriculum = restored(curriculum, Linear(blocks, steps, last_share))
    ramp = round(steps * (1 - last_share))
    assert seen == sorted(seen)
    assert all(block == blocks for block in seen[ramp:])
    assert {move.reason for move in curriculum.history[1:]} <= {"budget"}
    if ramp >= blocks > 1:
        assert seen[0] == 1
        counts = [seen[:ramp].count(block) for block in range(1, blocks)]
        assert max(counts) - min(counts) <= 1


def test_fixed__refuses_a_block_that_the_teacher_has_not() -> None:
    assert make(recipe.FixedSettings(block=7), 12, steps_per_epoch=1, epochs=1).targets == (7,)
    for block in (0, 13):
        with pytest.raises(TrainError, match=f"curriculum.block={block}: the teacher's blocks are 1 to 12"):
            make(recipe.FixedSettings(block=block), 12, steps_per_epoch=1, epochs=1)


def test_one_to_one__has_every_block_as_a_target_at_its_own_depth() -> None:
    curriculum = OneToOne(4, 4)
    assert curriculum.targets == (1, 2, 3, 4)
    assert [curriculum.depth(target, 12) for target in curriculum.targets] == [3, 6, 9, 12]
    assert Curriculum(4, 4).depth(1, 12) == 12


def test_make__knows_every_strategy_of_the_recipes() -> None:
    made = {}
    for name, kind in recipe.CURRICULA.items():
        spec = kind(block=2) if name == "fixed" else kind()
        made[name] = make(spec, 12, steps_per_epoch=10, epochs=100)
        assert isinstance(made[name], Curriculum)
    assert sorted(made) == ["fixed", "last", "leap", "leap-grow", "linear", "one-to-one"]
    assert [made[name].targets for name in ("fixed", "last", "one-to-one")] == [(2,), (12,), tuple(range(1, 13))]
    assert (made["leap"].spec.max_epochs, made["leap"].steps_per_epoch) == (5, 10)
    assert made["leap-grow"].ramp == made["linear"].ramp == 700
    assert made["leap-grow"].same_depth
    assert not make(recipe.LeapGrowSettings(start="calibrated"), 12, steps_per_epoch=1, epochs=9).history
