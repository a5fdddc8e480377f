"""What a run folder tells of its training, finished or not: the log, the moves of the target block, the monitor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from train import checkpoint, log, table
from train.errors import TrainError
from train.evaluate import monitor
from train.method.curriculum import Move
from train.recipe import Recipe
from train.recipe_file import load_recipe
from train.run import RECIPE, RunReport


@dataclass(frozen=True)
class History:
    """A training as its folder tells it. `report` is None while it is unfinished."""

    folder: Path
    recipe: Recipe
    log: list[log.LogRow]
    moves: list[Move]
    monitor: list[monitor.Measurement]
    report: RunReport | None

    @property
    def strategy(self) -> str:
        """The name of its curriculum."""
        return self.recipe.curriculum.strategy

    @property
    def steps(self) -> int:
        """How many optimiser steps the folder tells of; 0 before the first."""
        return max([row.step for row in self.log[-1:]] + [move.step for move in self.moves[-1:]], default=0)

    @property
    def targets(self) -> list[tuple[int, int]]:
        """(step, block) of each change of the target; of an unfinished run, the log tells what no move does yet.

        The log has a row every few steps: a change is placed at the row before the one that shows it.
        """
        found, before = [(move.step, move.block) for move in self.moves], 0
        for row in [] if self.report else self.log:
            if not found or (row.step > found[-1][0] and row.block != found[-1][1]):
                found.append((before, row.block))
            before = row.step
        return found


def load_history(folder: Path) -> History:
    """Read a run folder. Raises TrainError when it is not one, or its files are damaged."""
    if not (folder / RECIPE).is_file():
        raise TrainError(f"{folder} is not a run folder ({RECIPE} is missing); name one that `python -m train` wrote")
    return History(
        folder=folder,
        recipe=load_recipe(folder / RECIPE),
        log=log.read(folder / log.FILE),
        moves=_moves(folder),
        monitor=monitor.read(folder / monitor.FILE),
        report=_report(folder / "metrics.json"),
    )


def _moves(folder: Path) -> list[Move]:
    """From curriculum.csv or, before the end of the run has written it, from the newest checkpoint."""
    if (folder / "curriculum.csv").is_file():
        return table.read(folder / "curriculum.csv", Move)
    saved = checkpoint.latest(folder / "checkpoints")
    if saved is None:
        return []
    try:
        return [Move(**move) for move in checkpoint.load(saved)["curriculum"]["history"]]
    except (TrainError, KeyError, TypeError):  # a newer one replaced it while we read: the log has the blocks
        return []


def _report(path: Path) -> RunReport | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunReport) if path.is_file() else None
    except msgspec.MsgspecError as error:
        raise TrainError(f"{path} is not the report of a run ({error}); move it away") from error
