"""results/latency.csv, the tables of docs/zoo.md made of it, and the rows of a card."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from export import text
from export.card import latency as card_row
from export.latency import Measured, add_rows
from train import table
from train.errors import TrainError

ROW = Measured(
    model="leap-nano",
    revision="abc",
    file="model.onnx",
    format="onnx",
    precision="fp32",
    runtime="onnxruntime 1.32.0",
    device="Intel(R) Xeon(R) CPU @ 2.20GHz",
    isa="avx2 vnni",
    threads=1,
    batch=1,
    input="pixels",
    n=10,
    min_ms=1.0,
    median_ms=1.5,
    p95_ms=2.25,
    images_per_second=666.67,
    load_ms=50.5,
    peak_memory_bytes=87_818_240,
    times_fp32=1.0,
    date="2026-11-24T12:00:00+00:00",
)


def test_rows__a_models_rows_on_a_device_are_replaced_together_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "results" / "latency.csv"
    first = [ROW, replace(ROW, precision="int8", file="model_int8.onnx", load_ms=None, times_eager=3.25)]
    others = [replace(ROW, model="leap-other"), replace(ROW, device="Cortex-A76", isa="dotprod neon")]
    add_rows(path, [*first, others[0]])
    assert table.read(path, Measured) == [*first, others[0]]
    add_rows(path, others[1:])
    again = replace(ROW, median_ms=9.0)
    add_rows(path, [again])
    assert table.read(path, Measured) == [others[1], again, others[0]]


def test_rows__another_table_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "latency.csv"
    for other in ("a,b\n1,2\n", "model\nleap\n", "model,,\n1,2,3,4,5\n"):
        path.write_text(other)
        with pytest.raises(TrainError, match="not a table of Measured rows"):
            add_rows(path, [ROW])
        assert path.read_text() == other


def test_card_row__has_what_a_card_says() -> None:
    row = card_row(ROW)
    assert (row.file, row.isa, row.median_ms) == ("model.onnx", ["avx2", "vnni"], 1.5)
    assert row.peak_memory_bytes == ROW.peak_memory_bytes


def test_tables__one_per_hardware_with_every_row() -> None:
    rows = [ROW, replace(ROW, format="torch", runtime="torch 2.14.1 eager", times_fp32=0.5, n=11)]
    measured = [*rows, *(replace(row, device="Cortex-A76", isa="neon") for row in rows)]
    page = text.render("latency.md", measured=measured)
    assert page.count("| model |") == 2
    assert f"{ROW.device} ({ROW.isa}), {ROW.date[:10]}:" in page
    assert "Cortex-A76 (neon)" in page
    assert page.count("| onnx fp32 | onnxruntime 1.32.0 | 1 | 1 | pixels | 1.00 | 1.50 | 2.25 | 10 |") == 2
    assert page.count("| the same weights | torch 2.14.1 eager |") == 2
    widths = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_tables__say_so_when_nothing_was_measured() -> None:
    assert text.render("latency.md", measured=[]) == "Nothing has been measured yet.\n"
