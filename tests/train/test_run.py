"""Whole runs: the folder that they leave, and a run that was stopped and resumed is the run that was not."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train.similarity import MEASURES

from train.__main__ import main
from train.errors import TrainError
from train.run import is_finished, load_run

EPOCHS, STEPS = 3, 6  # of 256 photos
DIGITS = [
    "digits",
    f"epochs={EPOCHS}",
    "batch=256",
    "curriculum.max_epochs=0.5",
    "curriculum.threshold=1",
    "teacher.options.embed_dim=48",
    "teacher.supervised.epochs=1",
    "compare=[]",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the digits in one go. Read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*DIGITS, "--out", str(folder), "--results", str(folder / "results")]) == 0
    return folder


@pytest.fixture
def sigint() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good once it has seen one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_run_folder__holds_what_export_reads(whole: Path) -> None:
    assert is_finished(whole)
    run = load_run(whole)
    assert run.recipe.epochs == EPOCHS
    assert [head.name for head in run.info.heads] == ["digits", "digits-teacher"]
    assert all(len(head.labels) == 10 for head in run.info.heads)
    assert run.tensors["projection.cls.weight"].shape == (48, 48)
    assert run.tensors["heads.digits-teacher.weight"].shape == (10, 48)
    assert not run.student.training
    names = {metric.name for metric in run.report.metrics}
    assert {"linear probe, cls", "10-NN, patch_mean", "top-1 of 10 through the teacher's head"} <= names
    assert [metric.name for metric in run.report.teacher_metrics] == [metric.name for metric in run.report.metrics]
    assert all(
        metric.n == 360 and metric.interval[0] <= metric.value <= metric.interval[1] for metric in run.report.metrics
    )
    assert json.loads((whole / "results" / "leap-digits.json").read_text())["strategy"] == "leap"


def test_run__moves_on_by_time_out_and_saves_what_it_left_out(whole: Path) -> None:
    with (whole / "curriculum.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["reason"] == "calibration"
    start = int(rows[0]["block"])
    expected = [(3 * move, start + move, "timeout") for move in range(1, 1 + min(EPOCHS * STEPS // 3, 12 - start))]
    assert [(int(row["step"]), int(row["block"]), row["reason"]) for row in rows[1:]] == expected
    run = load_run(whole)
    assert 0 < run.report.total_flops_saved < run.report.teacher_flops_saved < 1


@pytest.mark.usefixtures("sigint")
def test_run__stopped_in_the_second_epoch_and_resumed_is_the_same_run(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder, steps = tmp_path / "run", []

    def stop(*tokens: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():  # not while calibrating
            steps.append(1)
        if len(steps) == STEPS + 3:
            raise KeyboardInterrupt
        return similarity(*tokens)

    similarity = MEASURES["cka"]
    monkeypatch.setitem(MEASURES, "cka", stop)
    assert main([*DIGITS, "--out", str(folder)]) == 130
    assert "train: interrupted; continue with --resume" in capsys.readouterr().err
    assert not is_finished(folder)
    with pytest.raises(TrainError, match=r"no finished run: student\.safetensors is missing"):
        load_run(folder)
    monkeypatch.undo()

    assert main([*DIGITS, "--out", str(folder)]) == 2
    assert main([*DIGITS, "optimizer.lr=1", "seed=7", "--out", str(folder), "--resume"]) == 2
    assert "was begun with another optimizer.lr, seed" in capsys.readouterr().err
    assert main([*DIGITS, "--out", str(folder), "--resume"]) == 0
    assert "resumed from epoch-000.ckpt" in capsys.readouterr().out
    assert (folder / "curriculum.csv").read_text() == (whole / "curriculum.csv").read_text()
    for file in ("teacher.safetensors", "student.safetensors", "head.safetensors"):
        resumed = load_file(folder / file)
        for key, value in load_file(whole / file).items():
            torch.testing.assert_close(resumed[key], value, atol=1e-4, rtol=1e-3, msg=f"{file}: {key}")
    assert sorted(path.name for path in (folder / "log").iterdir()) == ["version_0", "version_1"]
    one, other = load_run(whole).report, load_run(folder).report
    assert other.teacher_metrics == one.teacher_metrics
    assert (other.teacher_flops, other.total_flops) == (one.teacher_flops, one.total_flops)


def test_load_run__of_a_damaged_folder_is_one_line(whole: Path, tmp_path: Path) -> None:
    for file, content in (
        ("student.safetensors", b"x" * 99),
        ("model.json", b"{}"),
        ("metrics.json", b"no json"),
        ("curriculum.csv", b"step,block,similarity,reason\nmany,1,,start\n"),
        ("recipe.yaml", b"epoch: 3\n"),
    ):
        folder = tmp_path / file
        shutil.copytree(whole, folder)
        (folder / file).write_bytes(content)
        with pytest.raises(TrainError) as caught:
            load_run(folder)
        assert "\n" not in str(caught.value)
        (folder / file).unlink()
        with pytest.raises(TrainError, match=f"{file} is missing"):
            load_run(folder)
