"""Files beside their peers in PyTorch, into a CSV file. No test looks at a time."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="needs the extra: pip install leap-zoo[train]")

from export.latency import Measured
from leap_zoo.bench import Plan
from leap_zoo.cli import main as leap_zoo
from tools import bench_latency
from tools.bench_latency import main
from train import table

ROOT = Path(__file__).resolve().parents[2]
TINY = "leap-tiny-test"
QUICK = ["--seconds", "0.02", "--threads", "1", "--batch", "1"]


def test_add__writes_the_rows_of_another_device(
    tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leap_zoo(["bench", TINY, "--zoo", str(tiny_zoo), "--seconds", "0.02", "--json"]) == 0
    document = capsys.readouterr().out
    (tmp_path / "device.json").write_text(document)
    path = tmp_path / "latency.csv"
    assert main(["--add", str(tmp_path / "device.json"), "--out", str(path)]) == 0
    found = [row.median_ms for row in table.read(path, Measured)]
    assert found == pytest.approx([row["median_ms"] for row in json.loads(document)["rows"]], abs=1e-5)
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"model": 1}]}'])
def test_add__another_document_is_one_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "device.json").write_text(text)
    assert main(["--add", str(tmp_path / "device.json"), "--out", str(tmp_path / "latency.csv")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_peers__need_timms_files(tiny_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [TINY, "--zoo", str(tiny_zoo), "--against", "torch", "--out", str(tmp_path / "latency.csv"), *QUICK]
    assert main(options) == 2
    assert "has no files for timm" in capsys.readouterr().err


SHIPPED = [path.parent for path in sorted((ROOT / "zoo").glob("*/model.safetensors"))]


@pytest.mark.skipif(not SHIPPED, reason="no student of the zoo has files for timm")
def test_peers__take_turns_with_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the processes that measure memory: each imports torch."""
    monkeypatch.setattr(bench_latency, "Plan", partial(Plan, costs=False))
    name = SHIPPED[0].name
    options = [name, "--zoo", str(SHIPPED[0].parent), "--against", "torch", "--against", "torch-onnx"]
    path = tmp_path / "latency.csv"
    assert main([*options, *QUICK, "--out", str(path)]) == 0
    rows = {(row.format, row.precision): row for row in table.read(path, Measured)}
    eager, exported, int8 = rows["torch", "fp32"], rows["torch-onnx", "fp32"], rows["onnx", "int8"]
    assert (eager.file, eager.times_eager, exported.times_exported) == ("model.safetensors", 1, 1)
    assert int8.times_eager == pytest.approx(eager.min_ms / int8.min_ms, abs=0.001)
    assert int8.times_exported == pytest.approx(exported.min_ms / int8.min_ms, abs=0.001)
