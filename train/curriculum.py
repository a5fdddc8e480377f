"""Which teacher blocks are the student's target, and when they move: state machines without tensors.

| strategy | target | moves on |
|---|---|---|
| `leap` | one block, from the calibrated one to the last | similarity or time-out, as in arXiv 2606.19483 |
| `leap-budget` | the same | similarity, or the share of the steps that is left to the block |
| `linear` | one block, from the first to the last | the step count alone |
| `fixed` | one block | never |
| `last` | the last block: ordinary feature distillation | never |
| `last-two` | the last two, by the student's own last two blocks | never |
| `one-to-one` | every block, each by the student's block at the same depth | never |

Adding a strategy: a subclass of `Curriculum` with `observe`, its settings in `train/recipe.py`, a line in `make`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from train import recipe
from train.errors import TrainError

Reason = Literal["start", "calibration", "similarity", "timeout", "budget", "schedule", "retreat"]


class CurriculumError(TrainError):
    """A curriculum was given settings or a saved state that it cannot follow."""


@dataclass(frozen=True)
class Move:
    """The target became `block` (1-based, `blocks` is the deepest) at `step`, and why."""

    step: int
    block: int
    similarity: float | None
    reason: Reason


class Curriculum:
    """The target block over training; subclasses decide when it moves.

    `block` is the deepest 1-based target; the teacher needs to run blocks 1..block only.
    `history` holds every move with its reason, the starting block first.
    """

    needs_calibration = False
    # Whether each target has a projection of its own, on the student's block at the same depth.
    layerwise = False

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

    def calibrate(self, similarities: Sequence[float]) -> None:
        """Choose the starting block from the fresh student's similarity to blocks 1..L (only if needs_calibration)."""
        raise NotImplementedError

    def observe(self, step: int, similarity: float) -> Move | None:
        """Take the similarity of student and target after optimiser step `step` (from 1); return the move, if any."""
        raise NotImplementedError

    @property
    def started(self) -> bool:
        """Whether the starting block has been chosen."""
        return bool(self.history)

    def _move(self, step: int, block: int, similarity: float | None, reason: Reason) -> Move:
        self.block = block
        self.history.append(Move(step, block, similarity, reason))
        return self.history[-1]

    def state_dict(self) -> dict[str, object]:
        """Everything that a resumed run needs to take the same moves at the same steps, as plain JSON values."""
        return {
            "strategy": type(self).__name__,
            "blocks": self.blocks,
            "block": self.block,
            "dropped": self.dropped,
            "history": [asdict(move) for move in self.history],
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from `state_dict()`. Raises CurriculumError when it belongs to another strategy or teacher."""
        for key, mine in (("strategy", type(self).__name__), ("blocks", self.blocks)):
            if state.get(key) != mine:
                raise CurriculumError(
                    f"the checkpoint's curriculum has {key}={state.get(key)!r}, this run has {mine!r}; "
                    "resume with the recipe that began the run, or start a new run folder"
                )
        self.block = int(state["block"])  # type: ignore[call-overload]
        self.dropped = int(state["dropped"])  # type: ignore[call-overload]
        self.history = [Move(**move) for move in state["history"]]  # type: ignore[attr-defined]


class Fixed(Curriculum):
    """One block from the first step to the last; the blocks behind it are never run."""

    def __init__(self, blocks: int, block: int) -> None:
        super().__init__(blocks)
        if not 1 <= block <= blocks:
            raise CurriculumError(f"curriculum.block={block}: the teacher's blocks are 1 to {blocks}")
        self._move(0, block, None, "start")

    def observe(self, step: int, similarity: float) -> Move | None:
        """Never moves."""
        if not math.isfinite(similarity):
            self.dropped += 1
        return None


class Last(Fixed):
    """The last block from the start: ordinary feature distillation."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks, blocks)


class LastTwo(Last):
    """The last two blocks, each matched by the student's own block at that depth, through a projection of its own."""

    layerwise = True

    @property
    def targets(self) -> tuple[int, ...]:
        """The last two blocks (the only one, of a teacher of one block)."""
        return tuple(range(max(1, self.blocks - 1), self.blocks + 1))


class OneToOne(Last):
    """Every block, each matched by the student's block at the same depth, through a projection of its own."""

    layerwise = True

    @property
    def targets(self) -> tuple[int, ...]:
        """All blocks."""
        return tuple(range(1, self.blocks + 1))


class Linear(Curriculum):
    """A ramp by the step count alone: equal shares for all blocks but the last, which has `last_share` of `steps`.

    A teacher of one block has nothing to ramp.
    """

    def __init__(self, blocks: int, *, steps: int, last_share: float = 0.3) -> None:
        super().__init__(blocks)
        self.ramp = _ramp(steps, last_share)
        self._move(0, self._at(0), None, "start")

    def observe(self, step: int, similarity: float) -> Move | None:
        """Move when the schedule says so."""
        if not math.isfinite(similarity):
            self.dropped += 1
        due = self._at(step)
        return self._move(step, due, similarity, "schedule") if due > self.block else None

    def _at(self, step: int) -> int:
        if step >= self.ramp:
            return self.blocks
        return 1 + step * (self.blocks - 1) // self.ramp


class Calibrated(Curriculum):
    """A curriculum that starts at the block which is most similar to the fresh student."""

    needs_calibration = True

    def calibrate(self, similarities: Sequence[float]) -> None:
        """Start at the most similar block; the first of equals. Non-finite similarities are passed over."""
        if len(similarities) != self.blocks:
            raise CurriculumError(f"calibration needs {self.blocks} similarities, got {len(similarities)}")
        finite = [(value, -index) for index, value in enumerate(similarities) if math.isfinite(value)]
        self.dropped += self.blocks - len(finite)
        if not finite:
            raise CurriculumError(
                "no block has a finite similarity to the fresh student; look for NaN in the photos or the teacher"
            )
        value, index = max(finite)
        self._move(0, 1 - index, value, "calibration")

    def _check_started(self) -> None:
        if not self.started:
            raise CurriculumError("calibrate() chooses the starting block before the first observation")


class Leap(Calibrated):
    """LEAP as published: from the calibrated block to the last, one at a time.

    threshold: advance when the averaged similarity reaches it (.85 on IN-100, .80 on IN-1K in the paper).
    smoothing: weight of the newest similarity in the average, in (0, 1]; the paper's runs use 1, no averaging.
    max_steps: advance at the latest after so many steps on one block (the paper: 5 epochs).
    """

    def __init__(self, blocks: int, *, threshold: float = 0.85, smoothing: float = 1.0, max_steps: int) -> None:
        super().__init__(blocks)
        _check_smoothing(smoothing)
        if max_steps < 1:
            raise CurriculumError(f"a block needs at least one step before it times out, got {max_steps}")
        self.threshold, self.smoothing, self.max_steps = threshold, smoothing, max_steps
        self.average = 0.0
        self.dwell = 0

    def observe(self, step: int, similarity: float) -> Move | None:
        """Advance by one block on similarity or time-out; a similarity that is not finite is dropped and counted."""
        self._check_started()
        self.dwell += 1
        if math.isfinite(similarity):
            self.average = self.smoothing * similarity + (1 - self.smoothing) * self.average
        else:
            self.dropped += 1
        if self.block == self.blocks:
            return None
        similar = self.average >= self.threshold
        if not similar and self.dwell < self.max_steps:
            return None
        move = self._move(step, self.block + 1, self.average, "similarity" if similar else "timeout")
        self.average, self.dwell = 0.0, 0
        return move

    def state_dict(self) -> dict[str, object]:
        """The state with the average and the steps spent on the present block."""
        return {**super().state_dict(), "average": self.average, "dwell": self.dwell}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from `state_dict()`."""
        super().load_state_dict(state)
        self.average = float(state["average"])  # type: ignore[arg-type]
        self.dwell = int(state["dwell"])  # type: ignore[call-overload]


class LeapBudget(Calibrated):
    """LEAP that always arrives: what is left of the ramp is shared out among the blocks that are left.

    steps: of the whole run; the last `last_share` of them are the last block's, whatever the similarity does.
    threshold: advance when the bias-corrected average of the block's similarities reaches it, after `min_steps` on the
        block; the steps that an early advance saves go to the deeper blocks.
    smoothing: weight of the newest similarity in that average, in (0, 1].
    retreat: None for a target that only ever deepens. Else, once per block and before the reserved share: go back to
        the block before when, after `min_steps`, the average is below this share of the threshold.
    """

    def __init__(
        self,
        blocks: int,
        *,
        steps: int,
        last_share: float = 0.3,
        threshold: float = 0.85,
        smoothing: float = 0.05,
        min_steps: int = 50,
        retreat: float | None = None,
    ) -> None:
        super().__init__(blocks)
        _check_smoothing(smoothing)
        self.ramp = _ramp(steps, last_share)
        self.threshold, self.smoothing, self.min_steps, self.retreat = threshold, smoothing, min_steps, retreat
        self.weighted = 0.0  # sum of similarities, each weighted by its age
        self.weight = 0.0  # sum of those weights: the bias correction
        self.entered = 0  # the step at which the present block became the target
        self.retreated: list[int] = []  # blocks that were left backwards

    @property
    def average(self) -> float:
        """The bias-corrected average similarity on the present block; 0 before the first."""
        return self.weighted / self.weight if self.weight else 0.0

    def observe(self, step: int, similarity: float) -> Move | None:
        """Advance on similarity or when the block's share of the ramp is used up."""
        self._check_started()
        if math.isfinite(similarity):
            self.weighted += self.smoothing * (similarity - self.weighted)
            self.weight += self.smoothing * (1 - self.weight)
        else:
            self.dropped += 1
        if self.block == self.blocks:
            return None
        left = self.ramp - step  # steps until the last block must be the target
        due = self.entered + (self.ramp - self.entered) / (self.blocks - self.block)
        if step >= due or left <= 0:  # more blocks than steps left: skip some rather than miss the last
            return self._turn(step, max(self.block + 1, self.blocks - max(0, left)), "budget")
        if step - self.entered < self.min_steps:
            return None
        if self.average >= self.threshold:
            return self._turn(step, self.block + 1, "similarity")
        if self._lost():
            self.retreated.append(self.block)
            return self._turn(step, self.block - 1, "retreat")
        return None

    def _lost(self) -> bool:
        return (
            self.retreat is not None
            and self.block > self.history[0].block
            and self.block not in self.retreated
            and self.average < self.retreat * self.threshold
        )

    def _turn(self, step: int, block: int, reason: Reason) -> Move:
        move = self._move(step, block, self.average, reason)
        self.weighted, self.weight, self.entered = 0.0, 0.0, step
        return move

    def state_dict(self) -> dict[str, object]:
        """The state with the average and the step at which the block was entered."""
        own = {key: getattr(self, key) for key in ("weighted", "weight", "entered")}
        return {**super().state_dict(), **own, "retreated": list(self.retreated)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from `state_dict()`."""
        super().load_state_dict(state)
        self.weighted, self.weight = float(state["weighted"]), float(state["weight"])  # type: ignore[arg-type]
        self.entered = int(state["entered"])  # type: ignore[call-overload]
        self.retreated = list(state["retreated"])  # type: ignore[call-overload]


def make(spec: recipe.AnyCurriculum, blocks: int, *, steps_per_epoch: int, epochs: int) -> Curriculum:
    """The strategy that a recipe asks for, its epochs turned into steps."""
    steps = epochs * steps_per_epoch
    match spec:
        case recipe.Leap():
            most = max(1, round(spec.max_epochs * steps_per_epoch))
            return Leap(blocks, threshold=spec.threshold, smoothing=spec.smoothing, max_steps=most)
        case recipe.LeapBudget():
            return LeapBudget(
                blocks,
                steps=steps,
                last_share=spec.last_share,
                threshold=spec.threshold,
                smoothing=spec.smoothing,
                min_steps=spec.min_steps,
                retreat=spec.retreat,
            )
        case recipe.Linear():
            return Linear(blocks, steps=steps, last_share=spec.last_share)
        case recipe.Fixed():
            return Fixed(blocks, spec.block)
        case recipe.LastTwo():
            return LastTwo(blocks)
        case recipe.OneToOne():
            return OneToOne(blocks)
        case recipe.Last():
            return Last(blocks)


def _ramp(steps: int, last_share: float) -> int:
    if steps < 1:
        raise CurriculumError(f"a ramp needs at least one step, got {steps}")
    if not 0 <= last_share <= 1:
        raise CurriculumError(f"last_share is a share of the steps, 0 to 1; got {last_share}")
    return math.floor(steps * (1 - last_share))


def _check_smoothing(smoothing: float) -> None:
    if not 0 < smoothing <= 1:
        raise CurriculumError(f"smoothing is the weight of the newest similarity, in (0, 1]; got {smoothing}")
