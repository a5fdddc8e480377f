"""Speed and memory: turns, rows, costs, the CSV files, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import leap_zoo
from leap_zoo.bench import ROUNDS, Plan, bench, latency_rows, take_turns
from leap_zoo.bench.costs import Task, probe
from leap_zoo.bench.latency import Row, card_rows, file_name, newest, read_rows, slowdown, write_rows
from leap_zoo.card import Preprocessing
from leap_zoo.cli import main
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.errors import ArtifactRefused, InvalidArgument, MissingExtra, UnknownModel
from leap_zoo.preprocess import to_tensor
from leap_zoo.publish import publish
from leap_zoo.store import find

TINY = "leap-tiny-test"
ROOT = Path(leap_zoo.__file__).parent.parent
QUICK = Plan(seconds=0.02, costs=False)

ROW = Row(
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


def task(**changes: object) -> Task:
    return Task(
        **{"model": TINY, "zoo": None, "precision": "fp32", "format": "onnx", "threads": 1, "batch": 1} | changes
    )


def test_turns__alternate_and_count_no_first_call() -> None:
    calls: list[str] = []
    samples = take_turns([lambda: calls.append("a"), lambda: calls.append("b")], seconds=0, rounds=4)
    assert "".join(calls) == "aaabbb" + "aabb" + "bbaa" + "aabb" + "bbaa"
    assert [len(row) for row in samples] == [4, 4]


def test_turns__measure_the_slow_as_slow_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def takes(milliseconds: float) -> None:
        nonlocal now
        now += milliseconds / 1000

    monkeypatch.setattr("leap_zoo.bench.time", SimpleNamespace(perf_counter=lambda: now))
    quick, slow = take_turns([lambda: takes(1), lambda: takes(4)], seconds=0.1)
    assert quick == pytest.approx([1] * len(quick))
    assert slow == pytest.approx([4] * len(slow))
    assert len(quick) > len(slow) >= ROUNDS
    assert 100 <= sum(quick) <= 100 + ROUNDS * 1.001
    assert 100 <= sum(slow) <= 100 + ROUNDS * 4.001


def test_bench__measures_every_file_on_all_conditions(tiny_zoo: Path) -> None:
    rows, notes = bench([TINY], Plan(threads=(1, 2), batches=(1, 3), seconds=0.02, costs=False), tiny_zoo)
    assert notes == []
    found = {(row.precision, row.threads, row.batch) for row in rows}
    assert found == {(p, t, b) for p in ("fp32", "int8") for t in (1, 2) for b in (1, 3)}
    for row in rows:
        assert 0 < row.min_ms <= row.median_ms <= row.p95_ms
        rounding = 0.0001 / row.median_ms  # of the milliseconds in the row
        assert row.images_per_second == pytest.approx(row.batch / row.median_ms * 1000, rel=0.001 + rounding)
        assert row.n >= ROUNDS
        assert (row.device, row.isa) == (cpu_name(), " ".join(instruction_sets()))
        assert row.runtime.startswith("onnxruntime ")
        assert row.times_eager is None


def test_bench__ratios_are_of_rows_under_the_same_conditions(tiny_zoo: Path) -> None:
    rows, _ = bench([TINY], Plan(batches=(1, 8), seconds=0.02, costs=False), tiny_zoo)
    for row in rows:
        reference = next(r for r in rows if r.precision == "fp32" and r.batch == row.batch)
        assert row.times_fp32 == pytest.approx(reference.min_ms / row.min_ms, abs=0.001)
    assert [row.times_fp32 for row in rows if row.precision == "fp32"] == [1.0, 1.0]
    only, _ = bench([TINY], Plan(precision="int8", seconds=0.02, costs=False), tiny_zoo)
    assert [(row.precision, row.times_fp32) for row in only] == [("int8", None)]


def test_bench__decoding_is_timed_and_is_a_row_of_its_own(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def counted(photo: bytes, spec: Preprocessing) -> np.ndarray:
        decoded.append(photo)
        return to_tensor(photo, spec)

    monkeypatch.setattr("leap_zoo.bench.to_tensor", counted)
    rows, _ = bench([TINY], Plan(precision="fp32", seconds=0.05, decode=True), tiny_zoo)
    by_input = {row.input: row for row in rows}
    assert len(decoded) > by_input["jpeg"].n  # once in every call that was timed, and in those to warm up
    assert by_input["pixels"].peak_memory_bytes is not None
    assert by_input["jpeg"].peak_memory_bytes is None


def test_bench__steps_are_as_many_as_announced(tiny_zoo: Path) -> None:
    announced, steps = [], []

    def begin(total: int):
        announced.append(total)
        return lambda: steps.append(1)

    plan = Plan(precision="fp32", threads=(1, 2, 1), batches=(1, 2, 2), seconds=0.02, decode=True)
    bench([TINY], plan, tiny_zoo, begin)
    assert announced == [len(steps)]


def test_bench__refuses_what_it_cannot_measure(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownModel):
        bench(["leap-tiny"], QUICK, tiny_zoo)
    with pytest.raises(InvalidArgument, match="openvino"):
        bench([TINY], Plan(format="openvino"), tiny_zoo)
    with pytest.raises(InvalidArgument, match="1 to 1024"):
        Plan(batches=(2000,))
    with pytest.raises(InvalidArgument, match="seconds"):
        Plan(seconds=float("nan"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InvalidArgument, match=r"model\.onnx was left out: ONNX Runtime cannot be imported"):
        bench([TINY], QUICK, tiny_zoo)
    with pytest.raises(MissingExtra):
        bench([TINY], Plan(format="onnx"), tiny_zoo)


def test_bench__against_torch_needs_what_the_peer_is_made_of(zoo_copy: Path) -> None:
    against = Plan(seconds=0.02, costs=False, against=("torch",))
    with pytest.raises(InvalidArgument, match="architecture: export it again"):
        bench([TINY], against, zoo_copy)
    _, card = find(TINY, zoo_copy)
    publish(zoo_copy, replace(card, artifacts=card.artifacts[1:]))
    with pytest.raises(InvalidArgument, match=r"lists no fp32 ONNX file.*python -m export"):
        bench([TINY], against, zoo_copy)


def test_probe__peak_memory_is_of_its_own_process_and_grows_with_the_batch(tiny_zoo: Path) -> None:
    ballast = bytearray(400_000_000)  # of this process: must not be counted
    ballast[::4096] = b"x" * len(ballast[::4096])
    small, large = (probe(task(zoo=str(tiny_zoo), batch=batch)) for batch in (1, 1024))
    assert small.load_ms > 0
    if small.peak_memory_bytes is None or large.peak_memory_bytes is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert 0 < small.peak_memory_bytes < len(ballast)
    photos = 1024 * 32 * 32 * 3
    assert large.peak_memory_bytes > small.peak_memory_bytes + photos


def test_probe__says_why_in_one_line(tiny_zoo: Path) -> None:
    with pytest.raises(ArtifactRefused, match="cannot be loaded: unknown model") as caught:
        probe(task(model="absent", zoo=str(tiny_zoo)))
    assert "\n" not in str(caught.value)


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


def test_rows__name_every_runtime_once(tmp_path: Path) -> None:
    runtimes = ("openvino 2026.4.1", "torch 2.14.1 eager", "torch 2.14.1 compiled")
    rows = [ROW, *(replace(ROW, runtime=runtime) for runtime in runtimes)]
    assert file_name(rows) == "intel-xeon-cpu-2.20ghz-avx2-vnni-ort1.32.0-ov2026.4.1-torch2.14.1.csv"


def test_rows__another_table_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / file_name([ROW])
    for text in ("a,b\n1,2\n", "model\nleap\n", "\x00", "model,,\n1,2,3,4,5\n"):
        path.write_text(text)
        with pytest.raises(InvalidArgument, match="no table of leap-zoo bench"):
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


def test_card_rows__are_of_published_files_on_pixels() -> None:
    peer = replace(ROW, format="torch", runtime="torch 2.14.1 eager")
    (row,) = card_rows([ROW, peer, replace(ROW, input="jpeg")])
    assert (row.file, row.isa, row.median_ms) == ("model.onnx", ["avx2", "vnni"], 1.5)
    assert row.peak_memory_bytes == ROW.peak_memory_bytes


def test_latency_rows__are_ready_for_a_card(tiny_zoo: Path) -> None:
    rows = latency_rows(TINY, tiny_zoo, seconds=0.02)
    assert [row.file for row in rows] == ["model.onnx", "model_int8.onnx"]
    assert all((row.threads, row.batch) == (1, 1) for row in rows)


def test_slowdown__tells_a_busy_machine() -> None:
    assert slowdown([ROW, replace(ROW, median_ms=3.0)]) == 3.0


def test_command__says_that_the_machine_was_busy(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", TINY, "--zoo", str(tiny_zoo), "--seconds", "0.02", "--precision", "fp32"]
    monkeypatch.setattr("leap_zoo.bench.latency.slowdown", lambda rows: 2.0)
    assert main(command) == 0
    assert "medians are up to 2.0 times the fastest call" in capsys.readouterr().err
    monkeypatch.setattr("leap_zoo.bench.latency.slowdown", lambda rows: 1.1)
    assert main(command) == 0
    assert capsys.readouterr().err == ""


def test_command__prints_a_table_writes_the_file_and_one_document(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", TINY, "--zoo", str(tiny_zoo), "--seconds", "0.02", "--batch", "1", "2", "--out", str(tmp_path)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["model", "file", "runtime", "threads"]
    assert "input" not in lines[1]
    assert sum(line.startswith(TINY) for line in lines) == 4
    (path,) = tmp_path.glob("*.csv")
    assert lines[-1] == f"written to {path}"
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(path)
    assert [row["batch"] for row in found["rows"]] == [1, 2, 1, 2]
    assert [row.median_ms for row in read_rows(path)] == [row["median_ms"] for row in found["rows"]]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["leap-absent"], "unknown model"),
        ([TINY, "--format", "openvino"], "has no file of 'openvino'"),
        ([TINY, "--against", "torch"], "architecture"),
        ([TINY, "--seconds", "0"], "seconds"),
        ([TINY, "--batch", "4096"], "1 to 1024"),
        ([TINY, "--threads", "5000"], "1 to 1024"),
        ([TINY, "--against", "jax"], "invalid choice"),
    ],
)
def test_command__errors_are_one_line(tiny_zoo: Path, arguments: list[str], reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leap_zoo.cli", "bench", "--zoo", str(tiny_zoo), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.startswith("leap-zoo: ")
    assert done.stderr.count("\n") == 1
