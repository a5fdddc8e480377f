"""The curriculum as a state machine, against a plain model of what the method says."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from train import recipe
from train.curriculum import Curriculum, CurriculumError, Fixed, Last, LastTwo, Leap, LeapBudget, Linear, OneToOne, make

similarities = st.floats(0, 1) | st.sampled_from([math.nan, math.inf, -math.inf])


class LeapMachine(RuleBasedStateMachine):
    """Any similarities, with saving and restoring in between; `expected_*` is the model."""

    @initialize(
        first=st.lists(st.floats(0, 1), min_size=1, max_size=6),
        threshold=st.floats(0, 1),
        smoothing=st.floats(0.05, 1),
        max_steps=st.integers(1, 6),
    )
    def start(self, first: list[float], threshold: float, smoothing: float, max_steps: int) -> None:
        self.settings = {"threshold": threshold, "smoothing": smoothing, "max_steps": max_steps}
        self.leap = Leap(len(first), **self.settings)
        self.leap.calibrate(first)
        self.step = self.dropped = self.dwell = 0
        self.average = 0.0
        self.block = first.index(max(first)) + 1

    @rule(similarity=similarities)
    def observe(self, similarity: float) -> None:
        self.step += 1
        self.dwell += 1
        if math.isfinite(similarity):
            share = self.settings["smoothing"]
            self.average = share * similarity + (1 - share) * self.average
        else:
            self.dropped += 1
        reason = None
        if self.block < self.leap.blocks:
            if self.average >= self.settings["threshold"]:
                reason = "similarity"
            elif self.dwell == self.settings["max_steps"]:
                reason = "timeout"
        move = self.leap.observe(self.step, similarity)
        assert (move.reason if move else None) == reason
        if move:
            self.block += 1
            assert (move.step, move.block, move.similarity) == (self.step, self.block, self.average)
            self.average, self.dwell = 0.0, 0

    @precondition(lambda self: self.step % 2)
    @rule()
    def save_and_restore(self) -> None:
        state = json.loads(json.dumps(self.leap.state_dict()))
        self.leap = Leap(self.leap.blocks, **self.settings)
        self.leap.load_state_dict(state)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.leap.block == self.block <= self.leap.blocks
        assert self.leap.dropped == self.dropped

    @invariant()
    def history_moves_by_one(self) -> None:
        blocks = [move.block for move in self.leap.history]
        assert blocks == list(range(blocks[0], self.block + 1))
        assert self.leap.history[0].reason == "calibration"


TestLeapMachine = LeapMachine.TestCase
TestLeapMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def leap(blocks: int = 4, **options: float) -> Leap:
    """A calibrated curriculum at block 1."""
    curriculum = Leap(blocks, **{"threshold": 0.85, "max_steps": 3, **options})
    curriculum.calibrate([0.5] + [0.1] * (blocks - 1))
    return curriculum


def test_leap__times_out_exactly_at_max_steps() -> None:
    curriculum = leap(blocks=3, max_steps=5)
    moves = [step for step in range(1, 20) if curriculum.observe(step, 0.2)]
    assert moves == [5, 10]
    assert [move.reason for move in curriculum.history] == ["calibration", "timeout", "timeout"]


def test_leap__moves_at_the_first_step_that_reaches_the_threshold() -> None:
    curriculum = leap(max_steps=100)
    assert curriculum.observe(1, 0.849) is None
    move = curriculum.observe(2, 0.85)
    assert move is not None
    assert (move.block, move.reason, move.similarity) == (2, "similarity", 0.85)


def test_leap__forgets_the_average_when_it_moves() -> None:
    curriculum = leap(smoothing=0.5, threshold=0.4, max_steps=100)
    assert curriculum.observe(1, 1.0) is not None  # average .5
    assert curriculum.observe(2, 0.7) is None  # .35; with the old average it would be .6


def test_leap__times_out_on_similarities_that_are_not_finite() -> None:
    curriculum = leap(max_steps=2)
    assert curriculum.observe(1, math.nan) is None
    move = curriculum.observe(2, math.inf)
    assert move is not None
    assert move.reason == "timeout"
    assert curriculum.dropped == 2
    assert curriculum.observe(3, 0.9) is not None  # one NaN does not freeze the average


def test_leap__stays_on_the_last_block() -> None:
    curriculum = leap(blocks=2, max_steps=1)
    curriculum.observe(1, 0.0)
    assert all(curriculum.observe(step, 1.0) is None for step in range(2, 9))
    assert curriculum.block == 2


def test_leap__needs_calibration_before_it_observes() -> None:
    with pytest.raises(CurriculumError, match="calibrate"):
        Leap(3, max_steps=1).observe(1, 0.5)


@given(st.lists(similarities, min_size=1, max_size=12))
def test_calibration__picks_the_first_of_the_most_similar_finite_blocks(values: list[float]) -> None:
    curriculum = Leap(len(values), max_steps=1)
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        with pytest.raises(CurriculumError, match="finite"):
            curriculum.calibrate(values)
        return
    curriculum.calibrate(values)
    assert curriculum.block == values.index(max(finite)) + 1
    assert curriculum.dropped == len(values) - len(finite)
    assert curriculum.history[0].similarity == max(finite)


def test_calibration__of_another_number_of_blocks_is_refused() -> None:
    with pytest.raises(CurriculumError, match="4 similarities, got 3"):
        Leap(4, max_steps=1).calibrate([0.1, 0.2, 0.3])


@pytest.mark.parametrize("options", [{"smoothing": 0.0}, {"smoothing": 1.1}, {"max_steps": 0}])
def test_leap__refuses_settings_that_mean_nothing(options: dict) -> None:
    with pytest.raises(CurriculumError):
        Leap(4, **{"max_steps": 1, **options})


@given(st.integers(1, 24), st.lists(similarities, max_size=30))
def test_last__never_moves(blocks: int, values: list[float]) -> None:
    curriculum = Last(blocks)
    assert not any(curriculum.observe(step, value) for step, value in enumerate(values, 1))
    assert curriculum.block == blocks
    assert [(move.block, move.reason) for move in curriculum.history] == [(blocks, "start")]
    assert curriculum.dropped == sum(not math.isfinite(value) for value in values)


def test_state__of_another_strategy_or_teacher_is_refused_and_changes_nothing() -> None:
    curriculum = leap()
    curriculum.observe(1, 0.9)
    before = curriculum.state_dict()
    for other, named in ((Last(4), "strategy"), (leap(blocks=5), "blocks")):
        with pytest.raises(CurriculumError, match=named):
            curriculum.load_state_dict(other.state_dict())
        assert curriculum.state_dict() == before


def test_state__of_a_fresh_curriculum_is_not_started() -> None:
    fresh = Leap(4, max_steps=2)
    assert not fresh.started
    restored = Leap(4, max_steps=2)
    restored.load_state_dict(json.loads(json.dumps(leap().state_dict())))
    assert restored.started


class BudgetMachine(RuleBasedStateMachine):
    """Whatever the similarities do: the last block comes no later than its share begins, and blocks get their dwell."""

    @initialize(
        first=st.lists(st.floats(0, 1), min_size=1, max_size=8),
        steps=st.integers(1, 60),
        last_share=st.floats(0, 1),
        threshold=st.floats(0, 1),
        smoothing=st.floats(0.01, 1),
        min_steps=st.integers(0, 8),
        retreat=st.none() | st.floats(0, 1),
    )
    def start(self, first: list[float], **options: float) -> None:
        self.options = options
        self.budget = LeapBudget(len(first), **options)
        self.budget.calibrate(first)
        self.step = 0

    @rule(similarity=similarities)
    def observe(self, similarity: float) -> None:
        self.step += 1
        before, entered = self.budget.block, self.budget.entered
        move = self.budget.observe(self.step, similarity)
        if move is None:
            assert self.budget.block == before
            return
        assert move.step == self.step
        if move.reason == "budget":
            assert move.block > before
        else:  # the block was given its minimum, and its neighbour comes next
            assert self.step - entered >= self.options["min_steps"]
            assert move.block - before == {"similarity": 1, "retreat": -1}[move.reason]
        if move.reason == "similarity":
            assert move.similarity >= self.options["threshold"]

    @rule()
    def save_and_restore(self) -> None:
        state = json.loads(json.dumps(self.budget.state_dict()))
        self.budget = LeapBudget(self.budget.blocks, **self.options)
        self.budget.load_state_dict(state)

    @invariant()
    def the_last_block_has_its_share(self) -> None:
        ramp = math.floor(self.options["steps"] * (1 - self.options["last_share"]))
        if self.step >= max(1, ramp):
            assert self.budget.block == self.budget.blocks
        assert 1 <= self.budget.block <= self.budget.blocks

    @invariant()
    def it_only_deepens_unless_asked(self) -> None:
        blocks = [move.block for move in self.budget.history]
        if self.options["retreat"] is None:
            assert blocks == sorted(set(blocks))
        else:  # a block is left backwards once at most
            assert sum(move.reason == "retreat" for move in self.budget.history) < self.budget.blocks


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def budget(blocks: int = 4, **options: float) -> LeapBudget:
    """A calibrated curriculum at block 1: 100 steps, 70 of them for the ramp."""
    curriculum = LeapBudget(blocks, **{"steps": 100, "min_steps": 5, **options})
    curriculum.calibrate([0.5] + [0.1] * (blocks - 1))
    return curriculum


def test_budget__shares_the_ramp_out_equally_when_nothing_is_similar() -> None:
    curriculum = budget(blocks=8)
    moves = [step for step in range(1, 101) if curriculum.observe(step, 0.0)]
    assert moves == [10, 20, 30, 40, 50, 60, 70]
    assert {move.reason for move in curriculum.history[1:]} == {"budget"}


def test_budget__gives_the_steps_that_it_saves_to_deeper_blocks() -> None:
    curriculum = budget(blocks=4)
    moves = [step for step in range(1, 101) if curriculum.observe(step, 1.0 if step <= 10 else 0.0)]
    assert moves == [5, 10, 70]  # two early advances; the third block has all that is left of 70
    assert [move.reason for move in curriculum.history[1:]] == ["similarity", "similarity", "budget"]


def test_budget__average_of_one_similarity_is_that_similarity() -> None:
    curriculum = budget(smoothing=0.05, min_steps=0)
    curriculum.observe(1, 0.6)
    assert curriculum.average == pytest.approx(0.6)
    curriculum.observe(2, math.nan)
    assert curriculum.average == pytest.approx(0.6)
    curriculum.observe(3, 0.8)
    assert curriculum.average == pytest.approx((0.95 * 0.6 + 0.8) / 1.95)


def test_budget__skips_blocks_rather_than_miss_the_last() -> None:
    curriculum = budget(blocks=12, steps=5, last_share=0.4)
    blocks = [curriculum.block]
    for step in range(1, 6):
        curriculum.observe(step, 0.0)
        blocks.append(curriculum.block)
    assert blocks[3:] == [12, 12, 12]
    assert blocks == sorted(blocks)


def test_budget__retreats_once_when_the_deeper_block_is_lost() -> None:
    curriculum = budget(blocks=3, threshold=0.5, retreat=0.5)
    for step in range(1, 6):
        curriculum.observe(step, 0.9)
    assert curriculum.block == 2
    reasons = []
    for step in range(6, 40):
        move = curriculum.observe(step, 0.1 if curriculum.block == 2 else 0.9)
        reasons += [move.reason] if move else []
    assert reasons[:2] == ["retreat", "similarity"]
    assert "retreat" not in reasons[1:]


@given(st.integers(1, 24), st.integers(1, 300), st.floats(0, 1))
def test_linear__is_a_ramp_that_ends_with_the_last_blocks_share(blocks: int, steps: int, last_share: float) -> None:
    curriculum = Linear(blocks, steps=steps, last_share=last_share)
    seen = [curriculum.block]
    for step in range(1, steps + 1):
        curriculum.observe(step, math.nan)
        seen.append(curriculum.block)
    ramp = math.floor(steps * (1 - last_share))
    assert seen == sorted(seen)
    assert all(block == blocks for block in seen[ramp:])
    assert {move.reason for move in curriculum.history[1:]} <= {"schedule"}
    if ramp >= blocks > 1:
        assert seen[0] == 1
        counts = [seen[:ramp].count(block) for block in range(1, blocks)]
        assert max(counts) - min(counts) <= 1


def test_fixed__refuses_a_block_that_the_teacher_has_not() -> None:
    assert Fixed(12, 7).targets == (7,)
    for block in (0, 13):
        with pytest.raises(CurriculumError, match="1 to 12"):
            Fixed(12, block)


def test_layerwise__targets() -> None:
    assert OneToOne(4).targets == (1, 2, 3, 4)
    assert LastTwo(4).targets == (3, 4)
    assert LastTwo(1).targets == (1,)
    assert OneToOne(4).layerwise
    assert not Last(4).layerwise


def test_make__knows_every_strategy_of_the_recipes() -> None:
    made = {}
    for name, kind in recipe.CURRICULA.items():
        spec = kind(block=2) if name == "fixed" else kind()
        made[name] = make(spec, 12, steps_per_epoch=10, epochs=100)
        assert isinstance(made[name], Curriculum)
    assert len({type(curriculum) for curriculum in made.values()}) == len(recipe.CURRICULA)
    assert made["leap"].max_steps == 50
    assert made["leap-budget"].ramp == 700
