"""Two processes under torchrun (gloo, on the CPU) are one process: same batches, same moves, the same student."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from train.checkpoint import SafeCheckpointIO
from train.run import load_run

ROOT = Path(__file__).parents[2]
PLAIN = ["augment.mix=false", "augment.flip=0", "augment.jitter=0", "augment.grey=0", "augment.blur=0"]
TINY = [
    "digits",
    "epochs=2",
    "batch=130",  # shares of 65; the last batch of 1437 photos has 7: shares of 4 and 3
    "curriculum.max_epochs=0.5",
    "loss.targets=standardised",
    "teacher.options.embed_dim=48",
    "teacher.supervised.epochs=1",
    "monitor=0",
    "compare=[]",
    "augment.scale=[1,1]",
    *PLAIN,
]


def port() -> int:
    """One that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(processes: int, arguments: list[str]) -> subprocess.CompletedProcess:
    """Run `arguments` of python by torchrun, one thread each; without it for one process."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port()}"]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def trained(folder: Path, processes: int, *more: str) -> Path:
    """The folder of a finished run of `TINY`."""
    done = launch(processes, ["-m", "train", *TINY, *more, "--out", str(folder)])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("linear probe, cls") == 1  # one process speaks
    return folder


def moves(folder: Path) -> list[tuple[int, int, str, float]]:
    """Step, block, reason, similarity of each move."""
    with (folder / "curriculum.csv").open(newline="") as file:
        return [
            (int(row["step"]), int(row["block"]), row["reason"], float(row["similarity"]))
            for row in csv.DictReader(file)
        ]


def losses(folder: Path) -> list[float]:
    """What the log has of the loss."""
    with (folder / "log" / "version_0" / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def first_epoch(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and target statistics after the first epoch, whose last batch was shared out unequally."""
    return SafeCheckpointIO().load_checkpoint(folder / "checkpoints" / "epoch-000.ckpt")["state_dict"]


@pytest.mark.timeout(600)
def test_two_processes__by_cosine_are_one_process(tmp_path: Path) -> None:
    choice = ["curriculum.similarity=cosine", "curriculum.threshold=0.7"]
    one, two = trained(tmp_path / "one", 1, *choice), trained(tmp_path / "two", 2, *choice)
    assert [move[:3] for move in moves(two)] == [move[:3] for move in moves(one)]
    assert {"similarity", "timeout"} <= {move[2] for move in moves(one)}  # decisions that depend on the average
    # The mean of row cosines is that of the whole batch; what differs is the order of float additions.
    assert [move[3] for move in moves(two)] == pytest.approx([move[3] for move in moves(one)], abs=1e-4)
    # AdamW divides by the size of the gradient: where that is next to nothing, its rounding is what moves a weight.
    assert losses(two) == pytest.approx(losses(one), rel=2e-3)
    ours, theirs = (first_epoch(folder) for folder in (two, one))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=2e-4, rtol=1e-3, msg=key)
    assert load_run(two).report.total_flops == load_run(one).report.total_flops
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.timeout(600)
def test_two_processes__that_accumulate_are_one_process_that_does_not(tmp_path: Path) -> None:
    choice = ["curriculum.similarity=cosine", "curriculum.threshold=0.7", "batch=128", "loss.targets=raw", "epochs=1"]
    one = trained(tmp_path / "one", 1, *choice)
    two = trained(tmp_path / "two", 2, *choice, "accumulate=2")
    assert [move[:3] for move in moves(two)] == [move[:3] for move in moves(one)]
    assert [move[3] for move in moves(two)] == pytest.approx([move[3] for move in moves(one)], abs=1e-3)


@pytest.mark.timeout(600)
def test_two_processes__by_cka_are_near_one_process(tmp_path: Path) -> None:
    choice = ["curriculum.threshold=1", "epochs=1", "batch=128"]
    one, two = trained(tmp_path / "one", 1, *choice), trained(tmp_path / "two", 2, *choice)
    assert [move[:3] for move in moves(two)] == [move[:3] for move in moves(one)]
    # The mean of the CKA of two halves is not the CKA of the whole.
    apart = np.subtract([move[3] for move in moves(two)], [move[3] for move in moves(one)])
    assert 0 < np.abs(apart).max() < 0.03


TOGETHER = """
import torch
from train import ranks
mine = ranks.join()
values = torch.tensor([[1.0, float("nan"), 5.0, float("nan")], [4.0, 2.0, float("inf"), float("nan")]])[mine.rank]
found = ranks.average(values, rows=(1, 2)[mine.rank])
assert found.mean[:3].tolist() == [3.0, 2.0, 5.0], found  # weighted by rows; what is not finite is left out
assert found.mean[3].isnan() and found.missing.tolist() == [0, 1, 1, 2], found
rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
part = rows[:11] if mine.first else rows[11:]
variance, mean = ranks.pooled(*torch.var_mean(part, dim=0, correction=0), len(part))
for ours, theirs in zip((variance, mean), torch.var_mean(rows, dim=0, correction=0)):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
"""


def test_two_processes__agree_on_averages_whatever_is_not_finite(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{TOGETHER}")
    done = launch(2, [str(script)])
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes__refuse_a_batch_that_they_cannot_share_out(tmp_path: Path) -> None:
    done = launch(2, ["-m", "train", *TINY, "batch=129", "--out", str(tmp_path / "run")])
    assert done.returncode != 0
    assert "train: batch=129 is the batch of all processes together" in done.stderr
