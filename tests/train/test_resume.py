"""A run that is killed, at whatever moment, and resumed is the run that was not: same moves, same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.data import EpochSampler, Shares
from train.run import is_finished

ROOT = Path(__file__).parents[2]
TINY = [
    "digits",
    "epochs=3",
    "batch=128",
    "curriculum.max_epochs=0.25",
    "curriculum.threshold=1",
    "loss.targets=standardised",
    "teacher.options.embed_dim=48",
    "teacher.supervised.epochs=1",
    "checkpoint_minutes=1e-6",  # after every step
    "monitor=0",
    "compare=[]",
]


def start(folder: Path, *more: str) -> subprocess.Popen:
    """`python -m train`, on one thread: there the arithmetic is the same each time."""
    return subprocess.Popen(
        [sys.executable, "-m", "train", *TINY, *more, "--out", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder: Path, *more: str) -> str:
    """What a run says that goes to its end."""
    process = start(folder, *more)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def kill_at(folder: Path, name: str, *more: str) -> None:
    """Kill a run, without a chance to tidy up, once it has written the checkpoint `name` or a later one."""
    process = start(folder, *more)
    until = time.monotonic() + 200
    while not any(path.name >= name for path in (folder / "checkpoints").glob("step-*.ckpt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "no such checkpoint was written"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("more", [(), ("accumulate=2",)], ids=["plain", "accumulating"])
def test_killed_twice_and_resumed__is_the_run_that_was_not(tmp_path: Path, more: tuple[str, ...]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, *more)
    kill_at(killed, "step-00000005", *more)  # of 12 steps an epoch
    assert not is_finished(killed)
    kill_at(killed, "step-00000017", "--resume", *more)
    (killed / "checkpoints" / "step-00000099.ckpt.partial").write_bytes(b"half a file")
    (killed / "checkpoints" / "step-00000098.ckpt").write_bytes(b"cut short")
    output = finish(killed, "--resume", *more)
    assert "resumed from step-000000" in output
    assert (killed / "curriculum.csv").read_text() == (whole / "curriculum.csv").read_text()
    assert len((whole / "curriculum.csv").read_text().splitlines()) > 3  # there were moves to compare
    for file in ("student.safetensors", "head.safetensors"):
        resumed = load_file(killed / file)
        for key, value in load_file(whole / file).items():
            assert torch.equal(resumed[key], value), f"{file}: {key}"
    assert len(list((killed / "checkpoints").iterdir())) == 2
    assert len(list((killed / "tensorboard").glob("version_*/events*"))) == 3


def test_shares__of_all_ranks_and_turns_are_the_batches_of_one_process() -> None:
    size, batch = 53, 12  # the last batch has 5 photos
    one = list(Shares(EpochSampler(size, 3), batch))
    assert [len(piece) for piece in one] == [12, 12, 12, 12, 5]
    assert list(chain(*one)) == list(EpochSampler(size, 3))
    shares = [Shares(EpochSampler(size, 3), batch, rank, 2, accumulate=2) for rank in range(2)]
    pieces = [list(share) for share in shares]
    assert [len(share) for share in shares] == [len(mine) for mine in pieces] == [10, 10]
    for step, whole in enumerate(one):
        taken = [pieces[rank][2 * step + turn] for turn in range(2) for rank in range(2)]
        assert list(chain(*taken)) == whole
        assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_shares__a_last_batch_smaller_than_the_pieces_repeats_photos() -> None:
    pieces = [list(Shares(EpochSampler(5, 0), 4, rank, 4)) for rank in range(4)]
    assert [len(mine[1]) for mine in pieces] == [1, 1, 1, 1]
    assert len({mine[1][0] for mine in pieces}) == 1


@pytest.mark.parametrize("done", range(9))
def test_shares__skip_leaves_out_what_is_done_once(done: int) -> None:
    share = Shares(EpochSampler(40, 1), 10, 1, 2, accumulate=2)
    every = list(share)
    share.skip(done)
    assert list(share) == every[done:]
    assert list(share) == every
