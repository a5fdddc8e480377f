"""A run that is killed, stopped or interrupted at whatever moment, and resumed, is the run that was not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch
import yaml
from safetensors.torch import load_file

from train import log
from train.run import is_finished, load_run

STEPS = 12  # 3 epochs of 4


@pytest.fixture(scope="module")
def recipe_file(tree: Callable[[], dict], photo_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe, growing, on drawn photos; a checkpoint after every step."""
    values = tree()
    values["data"] |= {"train": str(photo_folders / "train"), "val": str(photo_folders / "val")}
    values |= {
        "epochs": 3,
        "checkpoint_minutes": 1e-6,
        "curriculum": {"strategy": "leap-grow", "last_share": 0.25, "every": 1},
        "loss": {"targets": "standardised"},
    }
    path = tmp_path_factory.mktemp("recipe") / "growing.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one go. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = commands.start(recipe_file, "--out", folder / "run", output=folder / "said.txt").finish()
    assert code == 0, said
    return folder / "run"


def is_the_same(one: Path, other: Path) -> None:
    """Moves and weights of two runs, bit for bit, and what their logs say of the same steps."""
    assert (one / "curriculum.csv").read_text() == (other / "curriculum.csv").read_text()
    assert len(load_run(one).moves) > 6
    for file in ("student.safetensors", "head.safetensors"):
        theirs = load_file(other / file)
        for key, value in load_file(one / file).items():
            assert torch.equal(value, theirs[key]), f"{file}: {key}"
    ours = {row.step: (row.loss, row.block) for row in log.read(one / log.FILE)}
    theirs = {row.step: (row.loss, row.block) for row in log.read(other / log.FILE)}
    assert ours[STEPS] == theirs[STEPS]
    assert load_run(one).report.total_flops == load_run(other).report.total_flops


def test_killed_twice_and_resumed__is_the_run_that_was_not(recipe_file: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (recipe_file, "--out", run)
    for step, more in ((3, ()), (7, ("--resume",))):  # at grown depths
        code, said = commands.start(*words, *more, output=tmp_path / "said.txt").signal_after(step, run, signal.SIGKILL)
        assert code == -signal.SIGKILL, said
        assert not is_finished(run)
    (run / "checkpoints" / "step-00000099.partial").write_bytes(b"half a file")
    (run / "checkpoints" / "step-00000098.safetensors").write_bytes(b"cut short")
    code, said = commands.start(*words, "--resume", output=tmp_path / "said.txt").finish()
    assert code == 0, said
    assert said.count("resumed after step") == 2
    is_the_same(run, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped__saves_a_checkpoint_exits_130_and_goes_on(
    recipe_file: Path, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run, words = tmp_path / "run", (recipe_file, "--out", tmp_path / "run")
    code, said = commands.start(*words, output=tmp_path / "said.txt").signal_after(5, run, number)
    assert code == 130, said
    assert "train: interrupted; continue with --resume" in said
    assert "Traceback" not in said
    assert not is_finished(run)
    code, said = commands.start(*words, "--resume", output=tmp_path / "said.txt").finish()
    assert code == 0, said
    is_the_same(run, whole)


def test_stopped_between_two_checkpoints__loses_no_step(recipe_file: Path, tmp_path: Path) -> None:
    """The checkpoint that is saved on the way out is of the step that was just done."""
    run = tmp_path / "run"
    command = commands.start(recipe_file, "checkpoint_minutes=60", "epochs=400", "--out", run, output=tmp_path / "said")
    code, said = command.signal_when(lambda: bool(log.read(run / log.FILE)), signal.SIGTERM)
    assert code == 130, said
    (path,) = (run / "checkpoints").iterdir()
    assert int(path.stem.removeprefix("step-")) >= log.read(run / log.FILE)[-1].step
