"""The CSV files of results/latency, the tables of docs/zoo.md made of them, and the rows of a card."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from export.latency import Measured, card_rows, file_name, latency_rows, latency_tables, newest, read_rows, write_rows
from leap_zoo.errors import InvalidArgument

ROOT = Path(__file__).parents[2]

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


def test_rows__round_trip(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, precision="int8", file="model_int8.onnx", load_ms=None, times_eager=3.25)]
    path = write_rows(tmp_path / "results" / "latency", rows)
    assert path.name == "intel-xeon-cpu-2.20ghz-avx2-vnni-ort1.32.0.csv"
    assert read_rows(path) == rows
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rows__a_models_rows_are_replaced_together_others_stay(tmp_path: Path) -> None:
    other = replace(ROW, model="leap-other")
    write_rows(tmp_path, [ROW, replace(ROW, threads=2), other])
    again = replace(ROW, median_ms=9.0)
    assert read_rows(write_rows(tmp_path, [again])) == [again, other]


@given(device=st.text(max_size=300), isa=st.text(max_size=40), version=st.from_regex(r"[0-9a-z+/.]{1,20}"))
def test_rows__file_names_are_safe_anywhere(device: str, isa: str, version: str) -> None:
    name = file_name([replace(ROW, device=device, isa=isa, runtime=f"onnxruntime {version}")])
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name.endswith(".csv")
    assert not name.startswith(".")
    assert len(name) < 256


def test_rows__name_every_runtime_once() -> None:
    runtimes = ("openvino 2026.4.1", "torch 2.14.1 eager", "torch 2.14.1 compiled")
    rows = [ROW, *(replace(ROW, runtime=runtime) for runtime in runtimes)]
    assert file_name(rows) == "intel-xeon-cpu-2.20ghz-avx2-vnni-ort1.32.0-ov2026.4.1-torch2.14.1.csv"


def test_rows__another_table_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / file_name([ROW])
    for text in ("a,b\n1,2\n", "model\nleap\n", "\x00", "model,,\n1,2,3,4,5\n"):
        path.write_text(text)
        with pytest.raises(InvalidArgument, match="not a table of latencies"):
            write_rows(tmp_path, [ROW])
        assert path.read_text() == text
    with pytest.raises(InvalidArgument, match="cannot be written"):
        write_rows(path / "below", [ROW])


def test_newest__is_per_hardware_and_model(tmp_path: Path) -> None:
    later = "2026-12-01T00:00:00+00:00"
    update = replace(ROW, runtime="onnxruntime 1.40.0", date=later)
    other = replace(ROW, model="leap-other")
    arm = replace(ROW, device="Cortex-A76", isa="dotprod neon")
    write_rows(tmp_path, [ROW, other])
    write_rows(tmp_path, [update])
    write_rows(tmp_path, [arm])
    assert newest(tmp_path) == [[arm], [update, other]]
    assert newest(tmp_path / "absent") == []


def test_card_rows__are_of_published_files() -> None:
    peer = replace(ROW, format="torch", runtime="torch 2.14.1 eager")
    (row,) = card_rows([ROW, peer])
    assert (row.file, row.isa, row.median_ms) == ("model.onnx", ["avx2", "vnni"], 1.5)
    assert row.peak_memory_bytes == ROW.peak_memory_bytes


def test_latency_rows__are_ready_for_a_card(tiny_zoo: Path) -> None:
    rows = latency_rows("leap-tiny-test", tiny_zoo, seconds=0.02)
    assert [row.file for row in rows] == ["model.onnx", "model_int8.onnx"]
    assert all((row.threads, row.batch) == (1, 1) for row in rows)


def test_tables__show_every_row_of_the_newest_files(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, format="torch", runtime="torch 2.14.1 eager", times_fp32=0.5, n=11)]
    write_rows(tmp_path, rows)
    write_rows(tmp_path, [replace(row, device="Cortex-A76", isa="neon") for row in rows])
    text = latency_tables(newest(tmp_path))
    assert text.count("| model |") == 2
    assert f"{ROW.device} ({ROW.isa}), {ROW.date[:10]}:" in text
    assert "Cortex-A76 (neon)" in text
    assert text.count("| onnx fp32 | onnxruntime 1.32.0 | 1 | 1 | pixels | 1.00 | 1.50 | 2.25 | 10 |") == 2
    assert text.count("| the same weights | torch 2.14.1 eager |") == 2
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_tables__say_so_when_nothing_was_measured() -> None:
    assert latency_tables([]) == "Nothing has been measured yet."


def test_page__has_the_newest_latencies() -> None:
    pytest.importorskip("torch", reason="the train extra is not installed")
    from export import tables

    assert latency_tables(newest(ROOT / "results" / "latency")) in tables.page()
