"""A run that is killed, stopped or interrupted at whatever moment, and resumed, is the run that was not."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch
from safetensors.torch import load_file

from train import log
from train.errors import TrainError
from train.loop import Training
from train.run import is_finished, load_run

STEPS = 12  # of the growing recipe: 3 epochs of 4

pytestmark = pytest.mark.timeout(900)  # processes of their own, maybe on a busy machine


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


def test_killed_twice_and_resumed__is_the_run_that_was_not(
    growing_recipe: Path, growing_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (growing_recipe, "--out", run)
    for step, more in ((3, ()), (7, ("--resume",))):  # at grown depths
        code, said = commands.start(*words, *more, output=tmp_path / "said.txt").signal_after(step, run, signal.SIGKILL)
        assert code == -signal.SIGKILL, said
        assert not is_finished(run)
    (run / "checkpoints" / ".0123456789abcdef.tmp").write_bytes(b"half a file")
    (run / "checkpoints" / "step-00000098.safetensors").write_bytes(b"cut short")
    code, said = commands.start(*words, "--resume", output=tmp_path / "said.txt").finish()
    assert code == 0, said
    assert said.count("resumed after step") == 2
    is_the_same(run, growing_run)


def test_stopped__saves_a_checkpoint_exits_130_and_goes_on(
    growing_recipe: Path, growing_run: Path, tmp_path: Path
) -> None:
    run, words = tmp_path / "run", (growing_recipe, "--out", tmp_path / "run")
    code, said = commands.start(*words, output=tmp_path / "said.txt").signal_after(5, run, signal.SIGINT)
    assert code == 130, said
    assert "train: interrupted; continue with --resume" in said
    assert "Traceback" not in said
    assert not is_finished(run)
    code, said = commands.start(*words, "--resume", output=tmp_path / "said.txt").finish()
    assert code == 0, said
    is_the_same(run, growing_run)


def test_stopped_between_two_checkpoints__loses_no_step(growing_recipe: Path, tmp_path: Path) -> None:
    """The checkpoint that is saved on the way out is of the step that was just done."""
    run = tmp_path / "run"
    command = commands.start(
        growing_recipe, "checkpoint_minutes=60", "epochs=400", "--out", run, output=tmp_path / "said"
    )
    code, said = command.signal_when(lambda: bool(log.read(run / log.FILE)), signal.SIGTERM)
    assert code == 130, said
    (path,) = (run / "checkpoints").iterdir()
    assert int(path.stem.removeprefix("step-")) >= log.read(run / log.FILE)[-1].step


CONSTANT = {
    "optimizer": {"warmup_epochs": 0, "decay": "last-block", "decay_share": 0.4},
    "curriculum": {"strategy": "last"},
}


def stop(done: int) -> None:
    """After the first epoch."""
    raise KeyboardInterrupt


def test_epochs__may_change_while_the_rate_is_constant(learn: Callable[..., Training], tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", epochs=2, **CONSTANT)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "longer", epochs=5, checkpoint_minutes=1e-9, after_epoch=stop, **CONSTANT)
    ended = learn(tmp_path / "longer", epochs=2, resume=True, **CONSTANT)
    assert ended.step == whole.step
    for ours, theirs in zip(ended.distiller.parameters(), whole.distiller.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_epochs__may_not_change_once_the_rate_falls(learn: Callable[..., Training], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, epochs=5, checkpoint_minutes=1e-9, after_epoch=stop)  # a cosine
    with pytest.raises(TrainError, match="cannot change from 5 epochs to 2: its learning rate would jump"):
        learn(tmp_path, epochs=2, resume=True)
