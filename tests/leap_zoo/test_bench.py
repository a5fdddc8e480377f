"""Speed and memory: turns, rows, costs, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from msgspec.structs import replace

import leap_zoo
from leap_zoo.bench import ROUNDS, Contender, Plan, Row, bench, measure_cost, slowdown, take_turns
from leap_zoo.card import ModelCard
from leap_zoo.cli import main
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.errors import ArtifactRefused, InvalidArgument, MissingExtra, UnknownModel
from leap_zoo.loading import open_artifact
from leap_zoo.store import Zoo

TINY = "leap-tiny-test"
ROOT = Path(leap_zoo.__file__).parent.parent
QUICK = Plan(seconds=0.02, costs=False)


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


def test_bench__ratios_are_of_rows_under_the_same_conditions(tiny_zoo: Path) -> None:
    rows, _ = bench([TINY], Plan(batches=(1, 8), seconds=0.02, costs=False), tiny_zoo)
    for row in rows:
        reference = next(r for r in rows if r.precision == "fp32" and r.batch == row.batch)
        assert row.times_fp32 == pytest.approx(reference.min_ms / row.min_ms, abs=0.001)
    assert [row.times_fp32 for row in rows if row.precision == "fp32"] == [1.0, 1.0]
    only, _ = bench([TINY], Plan(precision="int8", seconds=0.02, costs=False), tiny_zoo)
    assert [(row.precision, row.times_fp32) for row in only] == [("int8", None)]


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


def test_bench__a_peer_takes_turns_with_the_files(tiny_zoo: Path) -> None:
    asked: list[int] = []

    def peer(place: Zoo, card: ModelCard, threads: int) -> Contender:
        asked.append(threads)
        return Contender("rival", lambda: open_artifact(place, card, card.artifacts[0], threads), costs=False)

    rows, _ = bench([TINY], Plan(threads=(1, 2), seconds=0.02, costs=False), tiny_zoo, [peer])
    assert asked == [1, 2]
    assert [row.format for row in rows] == ["onnx", "onnx", "rival"] * 2
    assert [row.threads for row in rows] == [1, 1, 1, 2, 2, 2]


def test_costs__peak_memory_is_of_its_own_process_and_grows_with_the_batch(tiny_zoo: Path) -> None:
    ballast = bytearray(400_000_000)  # of this process: must not be counted
    ballast[::4096] = b"x" * len(ballast[::4096])
    load = partial(leap_zoo.load, TINY, zoo=tiny_zoo, threads=1)
    (load_ms, small), (_, large) = (measure_cost(load, batch) for batch in (1, 1024))
    assert load_ms > 0
    if small is None or large is None:
        pytest.skip("this system does not report the peak memory of a process")
    assert 0 < small < len(ballast)
    photos = 1024 * 32 * 32 * 3
    assert large > small + photos


def test_costs__errors_of_the_other_process_are_raised_here(tiny_zoo: Path) -> None:
    with pytest.raises(UnknownModel, match="unknown model 'absent'"):
        measure_cost(partial(leap_zoo.load, "absent", zoo=tiny_zoo), 1)
    with pytest.raises(ArtifactRefused, match="was killed"):
        measure_cost(partial(os.abort), 1)


def test_slowdown__tells_a_busy_machine(tiny_zoo: Path) -> None:
    (row,), _ = bench([TINY], Plan(precision="fp32", seconds=0.02, costs=False), tiny_zoo)
    assert slowdown([replace(row, min_ms=1.0, median_ms=1.5), replace(row, min_ms=1.0, median_ms=3.0)]) == 3.0


def test_command__says_that_the_machine_was_busy(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", TINY, "--zoo", str(tiny_zoo), "--seconds", "0.02", "--precision", "fp32"]
    monkeypatch.setattr("leap_zoo.bench.slowdown", lambda rows: 2.0)
    assert main(command) == 0
    assert "medians are up to 2.0 times the fastest call" in capsys.readouterr().err
    monkeypatch.setattr("leap_zoo.bench.slowdown", lambda rows: 1.1)
    assert main(command) == 0
    assert capsys.readouterr().err == ""


def test_command__prints_a_table_or_one_document(tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", TINY, "--zoo", str(tiny_zoo), "--seconds", "0.02", "--precision", "int8"]
    command += ["--batch", "1", "2"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["model", "file", "runtime", "threads"]
    assert sum(line.startswith(TINY) for line in lines) == 2
    assert main([*command, "--json"]) == 0
    rows = msgspec.convert(json.loads(capsys.readouterr().out)["rows"], list[Row])
    assert [row.batch for row in rows] == [1, 2]
    assert all(row.load_ms and row.load_ms > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["leap-absent"], "unknown model"),
        ([TINY, "--format", "openvino"], "has no 'openvino' file"),
        ([TINY, "--seconds", "0"], "seconds"),
        ([TINY, "--batch", "4096"], "1 to 1024"),
        ([TINY, "--threads", "5000"], "1 to 1024"),
        ([TINY, "--against", "torch"], "unrecognized arguments"),
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
