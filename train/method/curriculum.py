"""Which teacher blocks are the student's target, and when they move: state machines without tensors.

docs/training.md has the table of strategies, CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from train import recipe
from train.errors import TrainError

Reason = Literal["start", "calibration", "similarity", "timeout", "plateau", "budget"]


@dataclass(frozen=True)
class Move:
    """The target became `block` (1-based, `blocks` is the deepest) after `step` steps, and why."""

    step: int
    block: int
    similarity: float | None = None
    reason: Reason = "start"


class Curriculum:
    """One target block all along (`fixed`, `last`); subclasses decide when it moves.

    `history` holds every move with its reason, the starting block first; it is empty until a curriculum without a
    starting block is calibrated. Similarities that are not finite are left out of all decisions.
    """

    same_depth = False  # whether the student meets a target at the target's own depth, and is run no deeper
    remembers: tuple[str, ...] = ()  # attributes that a resumed run needs, beside the history

    def __init__(self, blocks: int, start: int | None = None, setting: str = "") -> None:
        """start: the first target, None where calibration finds it; `setting` is its name in recipes."""
        if start is not None and not 1 <= start <= blocks:
            raise TrainError(f"{setting}={start}: the teacher's blocks are 1 to {blocks}")
        self.blocks, self.history = blocks, [] if start is None else [Move(0, start)]

    @property
    def block(self) -> int:
        """The deepest target, from 1: the teacher needs to run blocks 1..block. Before calibration: the last one."""
        return self.history[-1].block if self.history else self.blocks

    @property
    def targets(self) -> tuple[int, ...]:
        """The blocks that the student is to match now, shallow first; the last of them is `block`."""
        return (self.block,)

    def depth(self, target: int, student_blocks: int) -> int:
        """How many of its blocks the student runs to match `target`: 1..student_blocks."""
        return max(1, round(target * student_blocks / self.blocks)) if self.same_depth else student_blocks

    def calibrate(self, similarities: Sequence[float]) -> None:
        """Start at the block most similar to the fresh student, the first of equals.

        similarities: to blocks 1..L. Raises TrainError where none is finite.
        """
        finite = [(value, -block) for block, value in enumerate(similarities, 1) if math.isfinite(value)]
        if not finite:
            raise TrainError("no block has a finite similarity to the fresh student; look for NaN in the teacher")
        value, block = max(finite)
        self._move(0, -block, value, "calibration")

    def observe(self, step: int, similarity: float) -> Move | None:
        """Take the similarity of student and target after optimizer step `step` (from 1); return the move, if any.

        Steps increase from call to call, not necessarily by one.
        """
        if self.block == self.blocks:
            return None
        return self._decide(step, similarity if math.isfinite(similarity) else None)

    def _decide(self, step: int, similarity: float | None) -> Move | None:
        """Move on from a block that is not the last, or stay. similarity: None where it was not finite."""
        return None

    def _move(self, step: int, block: int, similarity: float | None, reason: Reason) -> Move:
        self.history.append(Move(step, block, similarity, reason))
        return self.history[-1]

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to take the same moves at the same steps, as plain JSON values."""
        moves = [asdict(move) for move in self.history]
        return {"history": moves, **{key: getattr(self, key) for key in self.remembers}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the `state_dict()` of the same recipe."""
        self.history = [Move(**move) for move in state["history"]]
        for key in self.remembers:
            setattr(self, key, state[key])


class OneToOne(Curriculum):
    """Every block, each matched by the student's block at the same depth, through a projection of its own."""

    same_depth = True

    @property
    def targets(self) -> tuple[int, ...]:
        """All blocks."""
        return tuple(range(1, self.blocks + 1))


class Leap(Curriculum):
    """LEAP as published (arXiv 2606.19483): from the calibrated block to the last, one at a time.

    It moves when the similarity, averaged with weight `smoothing` for the newest, reaches `threshold`; else at the
    `max_epochs`-th end of an epoch on one block. An epoch that the block did not begin counts.
    """

    remembers = ("average",)

    def __init__(self, spec: recipe.LeapSettings, blocks: int, steps_per_epoch: int) -> None:
        super().__init__(blocks)
        self.spec, self.steps_per_epoch = spec, steps_per_epoch
        self.average = 0.0

    def _decide(self, step: int, similarity: float | None) -> Move | None:
        if similarity is not None:
            self.average = self.spec.smoothing * similarity + (1 - self.spec.smoothing) * self.average
        similar = self.average >= self.spec.threshold
        epoch_ends = step // self.steps_per_epoch - self.history[-1].step // self.steps_per_epoch
        if not similar and epoch_ends < self.spec.max_epochs:
            return None
        move = self._move(step, self.block + 1, self.average, "similarity" if similar else "timeout")
        self.average = 0.0
        return move


class Linear(Curriculum):
    """A ramp by the step count, one block at a time: equal shares of the steps, and `last_share` for the last block.

    steps: of the whole run. It always arrives at the last block.
    """

    def __init__(self, blocks: int, steps: int, last_share: float, start: int | None = 1) -> None:
        self.ramp = round(steps * (1 - last_share))  # steps before those of the last block
        super().__init__(blocks, start if self.ramp or start is None else blocks, "curriculum.start")

    def _decide(self, step: int, similarity: float | None) -> Move | None:
        entered = self.history[-1].step
        left = self.ramp - step  # steps until the last block must be the target
        due = entered + (self.ramp - entered) / (self.blocks - self.block)
        if step >= due or left <= 0:  # with more blocks than steps left, some are skipped rather than the last missed
            return self._move(step, max(self.block + 1, self.blocks - max(0, left)), similarity, "budget")
        return self._move(step, self.block + 1, similarity, "plateau") if self._level(step, similarity) else None

    def _level(self, step: int, similarity: float | None) -> bool:
        """Whether the block teaches nothing more, and leaves the rest of its share to the deeper ones."""
        return False


class LeapGrow(Linear):
    """A ramp that leaves a block early at a plateau of its similarity; by `grow` the student grows with its target.

    A plateau: the mean of the newest `plateau_steps` steps is less than `plateau_rise` above the mean of the
    `plateau_steps` steps before them, all of them on this block.
    """

    remembers = ("seen",)

    def __init__(self, spec: recipe.LeapGrowSettings, blocks: int, steps: int) -> None:
        super().__init__(blocks, steps, spec.last_share, None if spec.start == "calibrated" else spec.start)
        self.spec, self.same_depth = spec, spec.grow
        self.seen: list[list[float]] = []  # [step, similarity], of the newest 2 * plateau_steps steps

    def _level(self, step: int, similarity: float | None) -> bool:
        entered, steps = self.history[-1].step, self.spec.plateau_steps
        self.seen = [pair for pair in self.seen if pair[0] > max(entered, step - 2 * steps)]
        self.seen += [] if similarity is None else [[step, similarity]]
        newer = [value for at, value in self.seen if at > step - steps]
        older = [value for at, value in self.seen if at <= step - steps]
        long_enough = step - entered >= 2 * steps and bool(newer and older)
        return long_enough and sum(newer) / len(newer) - sum(older) / len(older) < self.spec.plateau_rise


def make(spec: recipe.AnyCurriculum, blocks: int, *, steps_per_epoch: int, epochs: int) -> Curriculum:
    """The strategy that a recipe asks for, its epochs turned into steps. Raises TrainError for a block that is not."""
    match spec:
        case recipe.LeapSettings():
            return Leap(spec, blocks, steps_per_epoch)
        case recipe.LeapGrowSettings():
            return LeapGrow(spec, blocks, epochs * steps_per_epoch)
        case recipe.LinearSettings():
            return Linear(blocks, epochs * steps_per_epoch, spec.last_share)
        case recipe.FixedSettings():
            return Curriculum(blocks, spec.block, "curriculum.block")
        case recipe.LastSettings():
            return Curriculum(blocks, blocks)
        case recipe.OneToOneSettings():
            return OneToOne(blocks, blocks)
