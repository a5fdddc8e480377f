"""The rule by which `leap-grow` leaves a block that teaches nothing more."""

from __future__ import annotations


class Plateau:
    """Reports when a similarity has stopped rising: the mean of the newest `steps` steps is less than `rise` above the
    mean of the `steps` steps before them.
    """

    def __init__(self, steps: int, rise: float) -> None:
        self.steps, self.rise = steps, rise
        self.seen: list[list[float]] = []  # [step, similarity], of the newest 2 * steps steps

    def reached(self, step: int, similarity: float | None, since: int) -> bool:
        """Take the similarity after `step`; `since`: the steps that were done when it began to be observed."""
        self.seen = [pair for pair in self.seen if pair[0] > step - 2 * self.steps]
        self.seen += [] if similarity is None else [[step, similarity]]
        newer = [value for at, value in self.seen if at > step - self.steps]
        older = [value for at, value in self.seen if at <= step - self.steps]
        long_enough = step - since >= 2 * self.steps and bool(newer and older)
        return long_enough and sum(newer) / len(newer) - sum(older) / len(older) < self.rise
