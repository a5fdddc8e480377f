"""What a run folder tells of its training, finished or not: the log, the moves of the target block, the monitor."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from train import checkpoint
from train.curriculum import Move
from train.errors import TrainError
from train.monitor import FILE as MONITOR
from train.monitor import Measurement, read
from train.recipe import Recipe, load_recipe
from train.run import RECIPE, RunReport, read_moves

MOST_BYTES = 200_000_000  # of a log: a line is about 100 bytes long, so this is 20 million steps at one in ten


@dataclass(frozen=True)
class LogRow:
    """One line of the log: `step` optimiser steps were done (from 1), the last one towards `block`."""

    step: int
    loss: float
    block: int
    similarity: float


@dataclass(frozen=True)
class History:
    """A training as its folder tells it. `report` is None while it is unfinished; `steps` is 0 before the first log."""

    folder: Path
    recipe: Recipe
    log: list[LogRow]
    moves: list[Move]
    monitor: list[Measurement]
    report: RunReport | None

    @property
    def strategy(self) -> str:
        """The name of its curriculum."""
        return self.recipe.curriculum.strategy

    @property
    def targets(self) -> list[tuple[int, int]]:
        """(step, block) of each change of the target; of an unfinished run, the log tells what no move does yet."""
        found = [(move.step, move.block) for move in self.moves]
        for row in [] if self.report else self.log:
            if not found or (row.step > found[-1][0] and row.block != found[-1][1]):
                found.append((row.step - 1 if found else 0, row.block))
        return found

    @property
    def steps(self) -> int:
        """How many optimiser steps the folder tells of."""
        return max([row.step for row in self.log[-1:]] + [move.step for move in self.moves[-1:]], default=0)


def load_history(folder: Path) -> History:
    """Read a run folder, or a rival's below it. Raises TrainError when it is no run, or its files are damaged."""
    recipe = _recipe(folder)
    return History(
        folder=folder,
        recipe=recipe,
        log=merge([_log(path) for path in _versions(folder / "log")]),
        moves=_moves(folder),
        monitor=read(folder / MONITOR),
        report=_report(folder / "metrics.json"),
    )


def merge(parts: list[list[LogRow]]) -> list[LogRow]:
    """The logs of a run and of its resumptions, in that order, as one: where two tell of a step, the later is right.

    A resumed run starts again from its last checkpoint, so it repeats some of the steps before it was stopped.
    """
    merged: list[LogRow] = []
    for part in parts:
        if part:
            merged = [row for row in merged if row.step < part[0].step] + part
    return merged


def _recipe(folder: Path) -> Recipe:
    if (folder / RECIPE).is_file():
        return load_recipe(folder / RECIPE)
    above = folder.parent.parent / RECIPE
    if folder.parent.name == "compare" and above.is_file():  # a rival's own recipe is written when it is finished
        recipe = load_recipe(above)
        for rival in recipe.compare:
            if rival.strategy == folder.name:
                return msgspec.structs.replace(recipe, curriculum=rival, compare=[])
    raise TrainError(f"{folder} is no run folder: it holds no {RECIPE}; name a folder that `python -m train` wrote")


def _versions(folder: Path) -> list[Path]:
    """The log of each start of the run, in order: version_2 comes before version_10, one without a version first."""
    found = [*folder.glob("metrics.csv"), *folder.glob("version_*/metrics.csv")]
    return sorted(found, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or -1))


def _log(path: Path) -> list[LogRow]:
    rows = []
    for line in csv.DictReader(_text(path)):
        if not (line.get("loss") and line.get("step")):
            continue  # figures of an epoch have lines of their own
        try:
            row = LogRow(
                int(line["step"]) + 1,  # Lightning counts from 0
                float(line["loss"]),
                int(float(line["block"])),
                float(line["similarity"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise TrainError(f"{path} is no log of a training (step {line['step'][:20]!r}): remove it") from error
        rows.append(row)
    return rows


def _text(path: Path) -> io.StringIO:
    """The whole lines of a file that may be growing while we read it."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise TrainError(f"{path} is larger than {MOST_BYTES // 1_000_000} MB: no log of a training is")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return io.StringIO(text[: text.rfind("\n") + 1])


def _moves(folder: Path) -> list[Move]:
    """From curriculum.csv or, before it is written at the end, from the last checkpoint."""
    path = folder / "curriculum.csv"
    if path.is_file():
        try:
            return read_moves(path)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise TrainError(f"{path} lists no moves of a target block; move it away to draw without it") from error
    saved = checkpoint.latest(folder / "checkpoints")
    if saved is None:
        return []
    try:
        state: dict[str, Any] = checkpoint.SafeCheckpointIO().load_checkpoint(saved)
        return [Move(**move) for move in state["leap"]["curriculum"]["history"]]
    except (TrainError, KeyError, TypeError):  # replaced by a newer one while we read it: the log has the blocks
        return []


def _report(path: Path) -> RunReport | None:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunReport)
    except msgspec.MsgspecError as error:
        raise TrainError(f"{path} is no report of a run ({error}); move it away to draw without it") from error
