"""The latency tables of docs/zoo.md: from the CSV files of results/latency, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from export.latency_tables import latency_tables
from leap_zoo.bench import Plan, bench
from leap_zoo.bench.latency import newest, write_rows

ROOT = Path(__file__).parents[2]


def test_tables__show_every_row_of_the_newest_files(tiny_zoo: Path, tmp_path: Path) -> None:
    rows, _ = bench(["leap-tiny-test"], Plan(seconds=0.02, costs=False), tiny_zoo)
    write_rows(tmp_path, rows)
    write_rows(tmp_path, [replace(row, device="Cortex-A76", isa="neon") for row in rows])
    text = latency_tables(newest(tmp_path))
    assert text.count("| model |") == 2
    assert f"{rows[0].device} ({rows[0].isa}), {rows[0].date[:10]}:" in text
    assert "Cortex-A76 (neon)" in text
    for row in rows:
        cells = f"| {row.min_ms:.2f} | {row.median_ms:.2f} | {row.p95_ms:.2f} | {row.n} |"
        assert text.count(cells) == 2
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_tables__say_so_when_nothing_was_measured() -> None:
    assert latency_tables([]) == "Nothing was measured yet."


def test_page__has_the_newest_latencies() -> None:
    pytest.importorskip("torch", reason="the train extra is not installed")
    from export import tables

    assert latency_tables(newest(ROOT / "results" / "latency")) in tables.page()
