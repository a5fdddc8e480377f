"""Which teacher blocks are the student's target, and when they move: state machines without tensors.

| strategy | target | moves on |
|---|---|---|
| `leap` | one block, from the calibrated one to the last | similarity or time-out, as in arXiv 2606.19483 |
| `leap-grow` | one block; the student runs no deeper than it | a plateau of the similarity, or the block's share |
| `linear` | one block, from the first to the last | the step count alone |
| `fixed` | one block | never |
| `last` | the last block: ordinary feature distillation | never |
| `one-to-one` | every block, each by the student's block at the same depth | never |

Adding a strategy: a subclass of `Curriculum` with `observe`, its settings in `train/recipe.py`, a line in `make`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from train import recipe
from train.errors import TrainError
from train.method.plateau import Plateau

Reason = Literal["start", "calibration", "similarity", "timeout", "plateau", "budget"]


class CurriculumError(TrainError):
    """A curriculum was given settings or a saved state that it cannot follow."""


@dataclass(frozen=True)
class Move:
    """The target became `block` (1-based, `blocks` is the deepest) after `step` steps, and why."""

    step: int
    block: int
    similarity: float | None = None
    reason: Reason = "start"


class Curriculum:
    """The target block over training; subclasses decide when it moves.

    `block` is the deepest 1-based target; the teacher needs to run blocks 1..block only.
    `history` holds every move with its reason, the starting block first.
    """

    needs_calibration = False
    grows = False  # whether the student, too, is run no deeper than its target
    layerwise = False  # whether each target has a projection of its own, on the student's block at the same depth
    remembers: tuple[str, ...] = ()  # attributes of a strategy that a resumed run needs

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise CurriculumError(f"a teacher needs at least one block, got {blocks}")
        self.blocks = blocks
        self.block = blocks
        self.history: list[Move] = []
        self.dropped = 0  # similarities that were not finite

    @property
    def targets(self) -> tuple[int, ...]:
        """The blocks that the student is to match now, shallow first; the last of them is `block`."""
        return (self.block,)

    def depth(self, target: int, student_blocks: int) -> int:
        """How many of its blocks the student runs to match `target`: 1..student_blocks."""
        if not (self.grows or self.layerwise):
            return student_blocks
        return max(1, round(target * student_blocks / self.blocks))

    def calibrate(self, similarities: Sequence[float]) -> None:
        """Start at the block most similar to the fresh student, the first of equals (only if needs_calibration).

        similarities: to blocks 1..L; those that are not finite are passed over.
        """
        if len(similarities) != self.blocks:
            raise CurriculumError(f"calibration needs {self.blocks} similarities, got {len(similarities)}")
        finite = [(value, -index) for index, value in enumerate(similarities) if math.isfinite(value)]
        self.dropped += self.blocks - len(finite)
        if not finite:
            raise CurriculumError("no block has a finite similarity to the fresh student; look for NaN in the teacher")
        value, index = max(finite)
        self._move(0, 1 - index, value, "calibration")

    def observe(self, step: int, similarity: float) -> Move | None:
        """Take the similarity of student and target after optimiser step `step` (from 1); return the move, if any.

        Steps increase from call to call, not necessarily by one. A similarity that is not finite is counted, not used.
        """
        if not self.started:
            raise CurriculumError("calibrate() chooses the starting block before the first observation")
        finite = math.isfinite(similarity)
        self.dropped += not finite
        return self._decide(step, similarity if finite else None)

    def _decide(self, step: int, similarity: float | None) -> Move | None:
        """Never moves."""
        return None

    @property
    def started(self) -> bool:
        """Whether the starting block has been chosen."""
        return bool(self.history)

    @property
    def entered(self) -> int:
        """The step after which the present block became the target."""
        return self.history[-1].step

    def _move(self, step: int, block: int, similarity: float | None, reason: Reason) -> Move:
        self.block = block
        self.history.append(Move(step, block, similarity, reason))
        return self.history[-1]

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to take the same moves at the same steps, as plain JSON values."""
        own = {"strategy": type(self).__name__, "history": [asdict(move) for move in self.history]}
        return own | {key: getattr(self, key) for key in ("blocks", "block", "dropped", *self.remembers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. Raises CurriculumError when it belongs to another strategy or teacher."""
        for key, mine in (("strategy", type(self).__name__), ("blocks", self.blocks)):
            if state.get(key) != mine:
                raise CurriculumError(
                    f"the checkpoint's curriculum has {key}={state.get(key)!r}, this run has {mine!r}; "
                    "resume with the recipe that began the run, or start a new run folder"
                )
        self.history = [Move(**move) for move in state["history"]]
        for key in ("block", "dropped", *self.remembers):
            setattr(self, key, state[key])


class Fixed(Curriculum):
    """One block from the first step to the last; the blocks behind it are never run."""

    def __init__(self, blocks: int, block: int) -> None:
        super().__init__(blocks)
        _check_block(block, blocks, "curriculum.block")
        self._move(0, block, None, "start")


class Last(Fixed):
    """The last block from the start: ordinary feature distillation."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks, blocks)


class OneToOne(Last):
    """Every block, each matched by the student's block at the same depth, through a projection of its own."""

    layerwise = True

    @property
    def targets(self) -> tuple[int, ...]:
        """All blocks."""
        return tuple(range(1, self.blocks + 1))


class Leap(Curriculum):
    """LEAP as published: from the calibrated block to the last, one at a time.

    threshold: advance when the averaged similarity reaches it (.85 on IN-100, .80 on IN-1K in the paper).
    smoothing: weight of the newest similarity in the average, in (0, 1]; the paper's runs use 1, no averaging.
    max_epochs: advance at the so-manieth end of an epoch on one block; an epoch that the block did not begin counts.
    """

    needs_calibration = True
    remembers = ("average",)

    def __init__(
        self, blocks: int, *, threshold: float = 0.85, smoothing: float = 1.0, max_epochs: int, steps_per_epoch: int
    ) -> None:
        super().__init__(blocks)
        self.threshold, self.smoothing = threshold, smoothing
        self.max_epochs, self.steps_per_epoch = max_epochs, steps_per_epoch
        self.average = 0.0

    def _decide(self, step: int, similarity: float | None) -> Move | None:
        if similarity is not None:
            self.average = self.smoothing * similarity + (1 - self.smoothing) * self.average
        if self.block == self.blocks:
            return None
        similar = self.average >= self.threshold
        epoch_ends = step // self.steps_per_epoch - self.entered // self.steps_per_epoch
        if not similar and epoch_ends < self.max_epochs:
            return None
        move = self._move(step, self.block + 1, self.average, "similarity" if similar else "timeout")
        self.average = 0.0
        return move


class LeapGrow(Curriculum):
    """A student that grows with its target, one block at a time, and always arrives at the last.

    steps: of the whole run; the last `last_share` of them are the last block's. What is left of the others is shared
    out equally among the blocks that are left; a block that reaches a plateau leaves its share to the deeper ones.
    start: the first block, or None for the one most similar to the fresh student.
    grow: whether the student runs no deeper than its target; else the target alone moves.
    """

    remembers = ("seen",)

    def __init__(
        self,
        blocks: int,
        *,
        steps: int,
        last_share: float = 0.3,
        start: int | None = 1,
        grow: bool = True,
        plateau: Plateau | None = None,
    ) -> None:
        super().__init__(blocks)
        self.ramp, self.grows, self.needs_calibration = _ramp(steps, last_share), grow, start is None
        self.plateau = plateau or Plateau(50, 0.002)
        if start is not None:
            _check_block(start, blocks, "curriculum.start")
            self._move(0, start if self.ramp else blocks, None, "start")

    def _decide(self, step: int, similarity: float | None) -> Move | None:
        if self.block == self.blocks:
            return None
        level = self.plateau.reached(step, similarity, self.entered)
        left = self.ramp - step  # steps until the last block must be the target
        due = self.entered + (self.ramp - self.entered) / (self.blocks - self.block)
        if step >= due or left <= 0:  # with more blocks than steps left, some are skipped rather than the last missed
            block, reason = max(self.block + 1, self.blocks - max(0, left)), "budget"
        elif level:
            block, reason = self.block + 1, "plateau"
        else:
            return None
        self.plateau.seen = []
        return self._move(step, block, similarity, reason)  # type: ignore[arg-type]

    @property
    def seen(self) -> list[list[float]]:
        """The similarities that the plateau is judged by."""
        return self.plateau.seen

    @seen.setter
    def seen(self, seen: list[list[float]]) -> None:
        self.plateau.seen = seen


class Linear(LeapGrow):
    """A ramp by the step count alone: equal shares for all blocks but the last, which has `last_share` of `steps`."""

    def __init__(self, blocks: int, *, steps: int, last_share: float = 0.3) -> None:
        never = Plateau(steps + 1, 0.0)
        super().__init__(blocks, steps=steps, last_share=last_share, grow=False, plateau=never)


def make(spec: recipe.AnyCurriculum, blocks: int, *, steps_per_epoch: int, epochs: int) -> Curriculum:
    """The strategy that a recipe asks for, its epochs turned into steps."""
    steps = epochs * steps_per_epoch
    match spec:
        case recipe.LeapSettings(threshold=threshold, smoothing=smoothing, max_epochs=most):
            return Leap(
                blocks, threshold=threshold, smoothing=smoothing, max_epochs=most, steps_per_epoch=steps_per_epoch
            )
        case recipe.LeapGrowSettings():
            start = None if spec.start == "calibrated" else spec.start
            plateau = Plateau(spec.plateau_steps, spec.plateau_rise)
            share, grow = spec.last_share, spec.grow
            return LeapGrow(blocks, steps=steps, last_share=share, start=start, grow=grow, plateau=plateau)
        case recipe.LinearSettings():
            return Linear(blocks, steps=steps, last_share=spec.last_share)
        case recipe.FixedSettings():
            return Fixed(blocks, spec.block)
        case recipe.LastSettings():
            return Last(blocks)
        case recipe.OneToOneSettings():
            return OneToOne(blocks)


def _ramp(steps: int, last_share: float) -> int:
    """Steps before those that are reserved for the last block."""
    return round(steps * (1 - last_share))


def _check_block(block: int, blocks: int, key: str) -> None:
    if not 1 <= block <= blocks:
        raise CurriculumError(f"{key}={block}: the teacher's blocks are 1 to {blocks}")
