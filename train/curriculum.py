"""Which teacher block is the student's target, and when it moves: a state machine without tensors.

`leap` follows arXiv 2606.19483 as published: start at the block that is most similar to the fresh student, move one
block deeper when the similarity of student and target reaches a threshold or the block has had its time.
`last` is the rival it is compared with: the last block from the first step.

Adding a strategy: a subclass of `Curriculum` with `observe`, and its name in `STRATEGIES`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from train.errors import TrainError

Reason = Literal["start", "calibration", "similarity", "timeout"]


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

    `block` is the 1-based target; the teacher needs to run blocks 1..block only.
    `history` holds every move with its reason, the starting block first.
    """

    needs_calibration = False

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise CurriculumError(f"a teacher needs at least one block, got {blocks}")
        self.blocks = blocks
        self.block = blocks
        self.history: list[Move] = []
        self.dropped = 0  # similarities that were not finite

    def calibrate(self, similarities: Sequence[float]) -> None:
        """Choose the starting block from the fresh student's similarity to blocks 1..L (only if needs_calibration)."""
        raise NotImplementedError

    def observe(self, step: int, similarity: float) -> Move | None:
        """Take the similarity (0..1) of student and target after optimiser step `step`; return the move, if any."""
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


class Last(Curriculum):
    """The last block from the start: ordinary feature distillation."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks)
        self._move(0, blocks, None, "start")

    def observe(self, step: int, similarity: float) -> Move | None:
        """Never moves."""
        if not math.isfinite(similarity):
            self.dropped += 1
        return None


class Leap(Curriculum):
    """LEAP as published: from the calibrated block to the last, one at a time.

    threshold: advance when the averaged similarity reaches it (.85 on IN-100, .80 on IN-1K in the paper).
    smoothing: weight of the newest similarity in the average, in (0, 1]; the paper's runs use 1, no averaging.
    max_steps: advance at the latest after so many steps on one block (the paper: 5 epochs).
    """

    needs_calibration = True

    def __init__(self, blocks: int, *, threshold: float = 0.85, smoothing: float = 1.0, max_steps: int) -> None:
        super().__init__(blocks)
        if not 0 < smoothing <= 1:
            raise CurriculumError(f"smoothing is the weight of the newest similarity, in (0, 1]; got {smoothing}")
        if max_steps < 1:
            raise CurriculumError(f"a block needs at least one step before it times out, got {max_steps}")
        self.threshold, self.smoothing, self.max_steps = threshold, smoothing, max_steps
        self.average = 0.0
        self.dwell = 0

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

    def observe(self, step: int, similarity: float) -> Move | None:
        """Advance by one block on similarity or time-out; a similarity that is not finite is dropped and counted."""
        if not self.started:
            raise CurriculumError("calibrate() chooses the starting block before the first observation")
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


STRATEGIES: dict[str, type[Curriculum]] = {"leap": Leap, "last": Last}
