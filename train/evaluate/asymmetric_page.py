"""The table of `docs/teacher-space.md`, generated from the rows of `results/teacher_space.csv`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

Row = dict[str, Any]

BEGIN, END = "<!-- teacher-space:begin (generated; do not edit) -->", "<!-- teacher-space:end -->"
COLUMNS = {
    ("student", "student", "student"): "student asks student, its own space",
    ("student", "student", "teacher"): "student asks student, teacher's space",
    ("teacher", "student", "teacher"): "**student asks teacher**",
    ("teacher", "teacher", "teacher"): "teacher asks teacher",
}


def read_rows(path: Path) -> list[Row]:
    """The rows of the CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def replace_table(text: str, rows: list[Row]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{render(rows)}\n\n{END}{after}"


def render(rows: list[Row]) -> str:
    """A line per data set and figure, a column per pair; per cent, 95 % intervals in brackets."""
    first = rows[0]
    lines = [
        f"| data, split | gallery | queries | figure | {' | '.join(COLUMNS.values())} |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    for key in dict.fromkeys((row["dataset"], row["split"], row["metric"]) for row in rows):
        same = [row for row in rows if (row["dataset"], row["split"], row["metric"]) == key]
        by = {(row["gallery"], row["queries"], row["space"]): row for row in same}
        if not by.keys() & COLUMNS.keys():
            continue
        one = same[0]
        cells = [_cell(by[pair]) if pair in by else "" for pair in COLUMNS]
        where = f"{one['dataset']}, {one['split']} | {one['gallery_photos']} | {one['n']}"
        lines.append(f"| {where} | {one['metric']} | {' | '.join(cells)} |")
    agreement = [row for row in rows if row["metric"].startswith("cosine")]
    near = "; ".join(f"{row['dataset']} {float(row['value']):.2f}" for row in agreement)
    lines += [
        "",
        f"`{first['student']}` and {first['teacher']}, photos of {first['pixels']} px; per cent, 95 % intervals in "
        f"brackets; {first['hardware']}, commit `{first['commit'][:12]}`. Cosine of the student's vector to the "
        f"teacher's, of the same photo, mean over the queries: {near}.",
    ]
    return "\n".join(lines)


def _cell(row: Row) -> str:
    value, low, high = (100 * float(row[key]) for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
