"""Rows of one kind as a CSV file, a column per field: logs, moves, measurements, results."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from leap_zoo.files import atomic_file
from train.errors import TrainError

Row = TypeVar("Row")


def read(path: Path, kind: type[Row]) -> list[Row]:
    """The whole rows (dataclasses or structs) of a file, which may be growing; empty: default. Raises TrainError."""
    try:
        text = path.read_text(encoding="utf-8")
        lines = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        filled = [{key: value for key, value in line.items() if value != ""} for line in lines]
        return msgspec.convert(filled, list[kind], strict=False)  # type: ignore[valid-type]
    except (OSError, UnicodeDecodeError, csv.Error, msgspec.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise TrainError(f"{path} is not a table of {kind.__name__} rows ({reason}); measure again") from error


def write(path: Path, rows: Sequence[Any]) -> None:
    """Write a new file, replacing an old one; create its folder if needed. Raises TrainError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(_text(rows, header=True).encode())
    except OSError as error:
        raise TrainError(f"cannot write {path} ({error.strerror}); choose another place") from error


def append(path: Path, row: Any) -> None:
    """Add a row to a file, which begins with it where it is empty or missing."""
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(_text([row], header=file.tell() == 0))


def _text(rows: Sequence[Any], *, header: bool) -> str:
    """CSV. Numbers have six decimals, or seven digits where that is more: float32 has no more."""
    text = io.StringIO(newline="")
    values = [msgspec.to_builtins(row) for row in rows]
    writer = csv.writer(text, lineterminator="\n")
    if header and values:
        writer.writerow(values[0].keys())
    writer.writerows(
        [_rounded(value) if isinstance(value, float) else value for value in row.values()] for row in values
    )
    return text.getvalue()


def _rounded(value: float) -> str:
    return f"{value:.7g}" if abs(value) < 1 else f"{round(value, 6):.10g}"
