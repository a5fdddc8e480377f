"""Figures as rows of the CSV files in `results/`: of published files, and of trials in training."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from leap_zoo.atomic import atomic_file
from leap_zoo.card import Metric
from train.errors import TrainError


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure of one published file, or of the teacher as the reference; a row of `results/zoo.csv`.

    model: its id; of the teacher, its name and the pixels it was given. sha256: of the file.
    value, low, high: in the unit of the metric (shares and cosines as they are), with the 95 % interval.
    Costs (`parameters`, `bytes`, `pixels`) are of no data set, and have no n.
    """

    model: str
    revision: str
    file: str
    sha256: str
    metric: str
    dataset: str = ""
    split: str = ""
    n: int | None = None
    value: float
    low: float | None = None
    high: float | None = None
    hardware: str
    commit: str


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure of one trained student; a row of `results/levers.csv` and `results/zoo_rivals.csv`.

    lever: what was done differently. epochs of photos: of the training; seconds: of CPU that it took, all threads.
    """

    lever: str
    student: str
    epochs: float
    photos: int
    metric: str
    dataset: str = ""
    split: str = ""
    n: int | None = None
    value: float
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    hardware: str
    commit: str


def trials_of(metrics: Sequence[Metric], **about: str | float | None) -> list[Trial]:
    """A row per metric of one trained student; about: the fields of a Trial that are the same in all."""
    return [
        Trial(
            **about,  # type: ignore[arg-type]
            metric=metric.name,
            dataset=metric.dataset,
            split=metric.split,
            n=metric.n,
            value=metric.value,
            low=metric.interval and metric.interval[0],
            high=metric.interval and metric.interval[1],
        )
        for metric in metrics
    ]


Row = TypeVar("Row", Figure, Trial)


def read_figures(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file. Raises TrainError when it cannot be read, or has other columns or values."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        filled = [{key: value for key, value in line.items() if value != ""} for line in lines]
        return msgspec.convert(filled, list[kind], strict=False)  # type: ignore[valid-type]
    except OSError as error:
        raise TrainError(f"cannot read {path} ({error.strerror}); measure first, or name another file") from error
    except (msgspec.ValidationError, csv.Error, UnicodeDecodeError, TypeError) as error:
        raise TrainError(f"{path} is no table of figures ({' '.join(str(error).split())}); measure again") from error


def write_figures(path: Path, rows: Sequence[Figure] | Sequence[Trial]) -> None:
    """Write at least one row, six decimals; the folder is made when missing. Raises TrainError."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0].__struct_fields__)
    for row in rows:
        writer.writerow([_cell(value) for value in msgspec.structs.astuple(row)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        raise TrainError(f"cannot write {path} ({error.strerror}); choose another place") from error


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return f"{round(value, 6):.10g}" if isinstance(value, float) else str(value)  # float32 has no more digits
