"""The log of a training: a CSV row every few steps, read back by pictures and by resumed runs."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from train.errors import TrainError

FILE, EVERY = "log.csv", 10  # steps
MOST_BYTES = 200_000_000  # a row is about 60 bytes long


@dataclass(frozen=True)
class LogRow:
    """After `step` steps (from 1): means since the last row but for `block`, the target of the newest step.

    rate: of the optimiser. images_per_second: of the newest step. waiting: share of the time so far that steps waited
    for photos, 0..1.
    """

    step: int
    loss: float
    block: int
    similarity: float
    rate: float
    images_per_second: float
    waiting: float


class Log:
    """Appends to a log; what it holds of later steps than `step` was before a resumption, and is dropped."""

    def __init__(self, file: Path, step: int) -> None:
        kept = [row for row in read(file) if row.step <= step]
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("w", newline="")
        self._writer = csv.writer(self._stream, lineterminator="\n")
        self._writer.writerow([field.name for field in fields(LogRow)])
        for row in kept:
            self.write(row)

    def write(self, row: LogRow) -> None:
        """Add a row, and let readers see it."""
        self._writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in asdict(row).values()])
        self._stream.flush()


def read(file: Path) -> list[LogRow]:
    """The whole rows of a log that may be growing; none where there is no file. Raises TrainError for another file."""
    if not file.is_file():
        return []
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES // 1_000_000} MB")
        text = file.read_text(encoding="utf-8")
        lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        return [_row(line) for line in lines]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise TrainError(f"{file} is not a log of `python -m train` ({error}); move it away") from error


def _row(line: dict[str, str]) -> LogRow:
    kinds = {field.name: int if field.type == "int" else float for field in fields(LogRow)}
    return LogRow(**{name: kind(line[name]) for name, kind in kinds.items()})
