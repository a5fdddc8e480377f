"""One format for every measurement in `results/`: a CSV row per figure, of what it is, and what measured it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from leap_zoo.atomic import atomic_file
from leap_zoo.card import Metric
from train.errors import TrainError


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure of one student, of one published file, or of the teacher as the reference.

    subject: a model's id, or what was changed in a recipe. seed: of the training. digest: of a published file (sha256).
    variant: of a recipe, at what equal cost it was compared (`epochs` or `FLOPs`), or the size of its student; of a
    published model, its file, or in `teacher_space.csv` who asks whom. value, low, high: in the unit of the metric
    (shares and cosines as they are), with the 95 % interval. Costs (parameters, bytes, FLOPs, seconds) have neither
    dataset nor n.
    """

    subject: str
    variant: str = ""
    seed: int | None = None
    digest: str = ""
    metric: str
    dataset: str = ""
    split: str = ""
    n: int | None = None
    value: float
    low: float | None = None
    high: float | None = None
    hardware: str
    commit: str


def results_of(
    metrics: Sequence[Metric], about: Mapping[str, object], costs: Mapping[str, float | None] | None = None
) -> list[Result]:
    """A row per metric, then one per cost that is known; about: the fields of a Result that are the same in all."""
    rows = []
    for metric in metrics:
        low, high = metric.interval or (None, None)
        where = {"dataset": metric.dataset, "split": metric.split, "n": metric.n}
        rows.append({"metric": metric.name, "value": metric.value, "low": low, "high": high, **where, **about})
    for name, cost in (costs or {}).items():
        if cost is not None:
            rows.append({"metric": name, "value": float(cost), **about})
    return msgspec.convert(rows, list[Result])


def table(rows: Sequence[Result]) -> str:
    """The measured rows as text, in lines below what they are of; costs are left out."""
    lines = []
    for name in dict.fromkeys((row.subject, row.variant) for row in rows):
        lines.append(" ".join(name).rstrip())
        for row in rows:
            if (row.subject, row.variant) == name and row.n is not None:
                interval = "" if row.low is None or row.high is None else f"[{row.low:.4f}, {row.high:.4f}]"
                where = f"{row.dataset}, {row.split}"
                lines.append(f"  {row.metric:48} {where:36} n={row.n:<6} {row.value:.4f} {interval}".rstrip())
    return "\n".join(lines)


def read_results(path: Path) -> list[Result]:
    """The rows of a file. Raises TrainError when it cannot be read, or has other columns or values."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        filled = [{key: value for key, value in line.items() if value != ""} for line in lines]
        return msgspec.convert(filled, list[Result], strict=False)
    except OSError as error:
        raise TrainError(f"cannot read {path} ({error.strerror}); measure first, or name another file") from error
    except (msgspec.ValidationError, csv.Error, UnicodeDecodeError, TypeError) as error:
        raise TrainError(f"{path} is not a table of results ({' '.join(str(error).split())}); measure again") from error


def write_results(path: Path, rows: Sequence[Result]) -> None:
    """Write the rows, six decimals; the folder is made when missing. Raises TrainError."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Result.__struct_fields__)
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
