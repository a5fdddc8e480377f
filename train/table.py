"""Rows of one kind as a CSV file, a column per field: logs, moves, measurements, results."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from leap_zoo.atomic import atomic_file
from train.errors import TrainError

Row = TypeVar("Row")


def read(path: Path, kind: type[Row]) -> list[Row]:
    """The whole rows of a file, which may be growing; an empty cell is None where the field may be, else its default.

    kind: a dataclass or msgspec struct. Raises TrainError for a file that is missing, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        return msgspec.convert([_filled(line) for line in lines], list[kind], strict=False)  # type: ignore[valid-type]
    except (OSError, UnicodeDecodeError, csv.Error, msgspec.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise TrainError(f"{path} is not a table of {kind.__name__} rows ({reason}); measure again") from error


def write(path: Path, rows: Sequence[Any]) -> None:
    """Write at least one row; the folder is made when missing. Raises TrainError."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(msgspec.to_builtins(rows[0]))
    writer.writerows(cells(row) for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        raise TrainError(f"cannot write {path} ({error.strerror}); choose another place") from error


def cells(row: Any) -> list[str]:
    """Six decimals, or seven digits where that is more: float32 has no more."""
    values = msgspec.to_builtins(row).values()
    return ["" if value is None else _rounded(value) if isinstance(value, float) else str(value) for value in values]


def _rounded(value: float) -> str:
    return f"{value:.7g}" if abs(value) < 1 else f"{round(value, 6):.10g}"


def _filled(line: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in line.items() if value != ""}
