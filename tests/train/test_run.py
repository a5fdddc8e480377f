"""The folder that a run leaves: what export reads, and what happens when it is damaged."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.__main__ import main
from train.errors import TrainError
from train.method.teacher import Teacher
from train.run import is_finished, load_run

DIGITS = [
    "digits",
    "epochs=2",
    "batch=256",
    "teacher.options.embed_dim=48",
    "teacher.options.depth=2",
    "teacher.supervised.epochs=1",
    "monitor=0",
]


def test_run_folder__holds_what_export_reads(growing_run: Path) -> None:
    assert is_finished(growing_run)
    run = load_run(growing_run)
    assert run.recipe.epochs == 3
    assert [head.name for head in run.info.heads] == ["colours", "own"]
    assert all(head.labels == ["blue", "green", "red"] for head in run.info.heads)
    assert run.tensors["projection.cls.weight"].shape == (48, 48)
    assert run.tensors["heads.own.weight"].shape == (3, 48)
    assert not run.student.training
    names = [metric.name for metric in run.report.metrics]
    assert {"linear probe, cls", "10-NN, patch_mean", "top-1 of 3 classes"} <= set(names)
    assert [metric.name for metric in run.report.teacher_metrics] == names
    assert all(m.n == 18 and m.interval[0] <= m.value <= m.interval[1] for m in run.report.metrics)
    results = json.loads((growing_run / "metrics.json").read_text())
    assert results["strategy"] == "leap-grow"
    assert (results["train_photos"], results["images_seen"]) == (36, 96)


def test_run__exports_the_fitted_classifier_instead_of_the_teachers(growing_run: Path, teacher: Teacher) -> None:
    fitted, theirs = load_run(growing_run).tensors, teacher.vit.head.state_dict()
    for key in ("weight", "bias"):
        assert not torch.equal(fitted[f"heads.own.{key}"], theirs[key])
        torch.testing.assert_close(fitted[f"heads.own.{key}"], theirs[key], rtol=0, atol=0.02)


def test_run__of_a_growing_student_saves_in_both_and_says_why_it_moved(growing_run: Path) -> None:
    with (growing_run / "curriculum.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["step"], rows[0]["block"], rows[0]["similarity"], rows[0]["reason"]) == ("0", "1", "", "start")
    assert {row["reason"] for row in rows[1:]} == {"budget"}
    assert (rows[-1]["step"], rows[-1]["block"]) == ("9", "12")  # the last quarter of 12 steps
    report = load_run(growing_run).report
    assert 0.3 < report.teacher_flops_saved < report.total_flops_saved + 0.1 < 0.7
    assert 0 < report.last_block_rate_share < 0.1


@pytest.mark.usefixtures("no_pictures")
def test_digits__need_nothing_but_the_package_and_resume_with_the_teacher_that_they_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, words = tmp_path / "run", [*DIGITS, f"data.store={tmp_path / 'store'}", "--out", str(tmp_path / "run")]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("train.pipeline.train", stop)
        assert main(words) == 130
    assert "train: interrupted; continue with --resume" in capsys.readouterr().err
    assert not is_finished(folder)
    with pytest.raises(TrainError, match=r"not a finished run: student\.safetensors is missing"):
        load_run(folder)
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*words, "optimizer.lr=1", "seed=7", "--resume"]) == 2
    assert "was begun with another optimizer.lr, seed" in capsys.readouterr().err

    teacher = load_file(folder / "teacher.safetensors")
    assert main([*words, "--resume"]) == 0
    assert "training the teacher" not in capsys.readouterr().out
    run = load_run(folder)
    assert torch.equal(run.tensors["heads.digits-teacher.weight"], teacher["head.weight"])
    assert [head.name for head in run.info.heads] == ["digits", "digits-teacher"]
    assert all(metric.n == 360 for metric in run.report.metrics)


def test_load_run__of_a_damaged_folder_is_one_line(growing_run: Path, tmp_path: Path) -> None:
    for file, content in (
        ("student.safetensors", b"x" * 99),
        ("model.json", b"{}"),
        ("metrics.json", b"not JSON"),
        ("curriculum.csv", b"step,block,similarity,reason\nmany,1,,start\n"),
        ("recipe.yaml", b"epoch: 3\n"),
    ):
        folder = tmp_path / file
        shutil.copytree(growing_run, folder, ignore=shutil.ignore_patterns("checkpoints"))
        (folder / file).write_bytes(content)
        with pytest.raises(TrainError) as caught:
            load_run(folder)
        assert "\n" not in str(caught.value)
        (folder / file).unlink()
        with pytest.raises(TrainError, match=f"{file} is missing"):
            load_run(folder)
