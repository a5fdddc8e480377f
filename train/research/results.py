"""One format for every measurement in `results/`: a CSV row per figure, of what it is, and what measured it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from leap_zoo.card import Metric
from train import table


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


def as_text(rows: Sequence[Result]) -> str:
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
    return table.read(path, Result)


def write_results(path: Path, rows: Sequence[Result]) -> None:
    """Write at least one row, six decimals; the folder is made when missing. Raises TrainError."""
    table.write(path, rows)
