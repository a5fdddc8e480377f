"""The log of a training, FOLDER/log.csv: a row every few steps, for plots and for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train import table

FILE, EVERY = "log.csv", 10  # steps


@dataclass(frozen=True)
class LogRow:
    """After `step` steps (from 1): means since the last decision of the curriculum, whose target was `block`."""

    step: int
    loss: float
    block: int
    similarity: float
    rate: float  # of the optimizer
    images_per_second: float  # of the newest step
    waiting: float  # share of the time so far that steps waited for photos, 0..1


class Log:
    """Appends to a log, without the rows of later steps than `step`, which precede a resumption."""

    def __init__(self, file: Path, step: int) -> None:
        self.file = file
        table.write(file, [row for row in read(file) if row.step <= step])

    def write(self, row: LogRow) -> None:
        """Add a row, and let readers see it."""
        table.append(self.file, row)


def read(file: Path) -> list[LogRow]:
    """The rows of a log that may be growing; none where there is no file. Raises TrainError for another file."""
    return table.read(file, LogRow) if file.is_file() else []
