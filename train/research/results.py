"""One format for every measurement in `results/`: a CSV row per figure, with its subject and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from leap_zoo.card import Metric
from train import table


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure of one student, of one published file, or of the teacher as the reference.

    Costs (parameters, bytes, FLOPs, seconds) have neither dataset nor n.
    """

    subject: str  # a model's id, or what was changed in a recipe
    variant: str = ""  # at what equal cost (`epochs`, `FLOPs`), which file, or who asks whom
    seed: int | None = None  # of the training
    digest: str = ""  # of a published file, sha256
    metric: str
    dataset: str = ""
    split: str = ""
    n: int | None = None
    value: float  # in the unit of the metric; shares and cosines as they are
    low: float | None = None  # the 95 % interval
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
    known = {name: float(cost) for name, cost in (costs or {}).items() if cost is not None}
    rows += [{"metric": name, "value": cost, **about} for name, cost in known.items()]
    return msgspec.convert(rows, list[Result])


def as_text(rows: Sequence[Result]) -> str:
    """The measured rows as text, in lines below what they are of; costs are left out."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        lines = groups.setdefault(f"{row.subject} {row.variant}".rstrip(), [])
        if row.n is not None:
            interval = "" if row.low is None or row.high is None else f"[{row.low:.4f}, {row.high:.4f}]"
            where = f"{row.dataset}, {row.split}"
            lines.append(f"  {row.metric:48} {where:36} n={row.n:<6} {row.value:.4f} {interval}".rstrip())
    return "\n".join(line for title, lines in groups.items() for line in (title, *lines))


def read_results(path: Path) -> list[Result]:
    """The rows of a file. Raises TrainError when it cannot be read, or has other columns or values."""
    return table.read(path, Result)


def updated(path: Path, rows: Sequence[Result]) -> list[Result]:
    """The rows of a file, if it is there, with `rows` in place of those of the same subject, seed and figure.

    Earlier rows of another digest of the same file go. Subjects of `rows` come first. Raises TrainError.
    """
    digests = {(row.subject, row.variant): row.digest for row in rows}
    new = {(row.subject, row.variant, row.seed, row.metric, row.dataset, row.split) for row in rows}
    kept = [
        row
        for row in (read_results(path) if path.is_file() else [])
        if (row.subject, row.variant, row.seed, row.metric, row.dataset, row.split) not in new
        and digests.get((row.subject, row.variant), row.digest) == row.digest
    ]
    order = list(dict.fromkeys(row.subject for row in [*rows, *kept]))
    return sorted([*kept, *rows], key=lambda row: order.index(row.subject))  # stable


def write_results(path: Path, rows: Sequence[Result]) -> None:
    """Write rows with six decimals; the folder is made when missing. Raises TrainError."""
    table.write(path, rows)
