"""The figures of `results/scale`: a CSV row each, with the machine and what else it did."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent / "results" / "scale"
FIELDS = ("subject", "metric", "value", "about", "machine", "note")

Figure = dict[str, str]


def figure(subject: str, metric: str, value: float, about: str = "", note: str = "") -> Figure:
    """One figure, to four digits."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    return dict(zip(FIELDS, (subject, metric, f"{value:.4g}", about, machine, note), strict=True))


def write(path: Path, rows: Sequence[Figure]) -> None:
    """Write and print them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path.read_text())


def read(path: Path) -> list[Figure]:
    """The rows of a file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
