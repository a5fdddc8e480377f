"""The rows of `results/latency.csv`: what `tools.bench_latency` writes, and `export.tables` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from leap_zoo.bench import Row
from train.table import read, write

FILE = Path("results") / "latency.csv"


class Measured(Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row, which may also be the same model in PyTorch (`torch`) or exported by torch.onnx.export (`torch-onnx`).

    times_eager, times_exported: like `times_fp32`, relative to PyTorch eager and to PyTorch's own ONNX file.
    """

    times_eager: float | None = None
    times_exported: float | None = None


def add_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows of a run into a file, which is created if missing.

    A model's rows on one device are replaced together, so that they are always from one run. Raises TrainError if the
    file is not a table of latencies or cannot be written.
    """
    new = msgspec.convert(msgspec.to_builtins(rows), list[Measured])
    measured = {_where(row) for row in new}
    kept = [row for row in (read(path, Measured) if path.exists() else []) if _where(row) not in measured]
    write(path, sorted([*kept, *new], key=_where))


def _where(row: Row) -> tuple[str, str, str]:
    return row.device, row.isa, row.model
