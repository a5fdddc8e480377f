"""Two processes (gloo, on the CPU) are one process: same batches, same moves, the same student."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import torch

from train import checkpoint, log
from train.run import load_run

ROOT = Path(__file__).parents[2]
# Each process augments its own photos by draws of its own: what is compared has none.
PLAIN = ["augment.scale=[1,1]", "augment.mix=false", "augment.flip=0", "augment.jitter=0", "augment.grey=0"]


def test_two_processes__train_a_growing_student_as_one_does(growing_recipe: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = (growing_recipe, *PLAIN, "curriculum.similarity=cosine", "monitor=0")
    alone = commands.start(*words, "--out", one, output=tmp_path / "one.txt")
    said = commands.finish_all([alone, *commands.start_two(*words, "--out", two, output=tmp_path / "two.txt")])
    assert [text.count("linear probe, cls") for text in said] == [1, 1, 0]  # one process speaks
    ours, theirs = load_run(two), load_run(one)
    assert [(m.step, m.block, m.reason) for m in ours.moves] == [(m.step, m.block, m.reason) for m in theirs.moves]
    assert len(ours.moves) > 6
    # The mean of row cosines is that of the whole batch; what differs is the order of float additions.
    alike = [[move.similarity for move in run.moves[1:]] for run in (ours, theirs)]
    assert alike[0] == pytest.approx(alike[1], abs=1e-3)
    assert ours.report.total_flops == theirs.report.total_flops
    assert ours.report.total_flops_saved > 0.2  # both know that the student was not whole
    losses = [[row.loss for row in log.read(folder / log.FILE)] for folder in (two, one)]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)
    # AdamW divides by the size of the gradient: where that is next to nothing, its rounding is what moves a weight.
    key = "scale.mean"
    states = [checkpoint.load(checkpoint.latest(run / "checkpoints"))["distiller"] for run in (two, one)]
    torch.testing.assert_close(states[0][key], states[1][key], atol=1e-4, rtol=1e-3)
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], atol=3e-3, rtol=1e-2, msg=name)


def test_two_processes__stop_together_when_one_is_told_to(growing_recipe: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", (growing_recipe, "epochs=400", "checkpoint_minutes=60", "monitor=0")
    first, second = commands.start_two(*words, "--out", run, output=tmp_path / "said.txt")
    code, said = second.signal_when(lambda: bool(log.read(run / log.FILE)), signal.SIGTERM)
    assert code == 130, said
    assert first.finish()[0] == 130
    assert checkpoint.load(checkpoint.latest(run / "checkpoints"))["step"] >= 10


def test_two_processes__refuse_a_batch_that_they_cannot_share_out(growing_recipe: Path, tmp_path: Path) -> None:
    words = (growing_recipe, "batch=9", "--out", tmp_path / "run")
    for command in commands.start_two(*words, output=tmp_path / "said.txt"):
        code, said = command.finish()
        assert code == 2
        assert "train: batch=9 is the batch of all processes together" in said
    assert not (tmp_path / "run").exists()


TOGETHER = """
import torch
from train import processes
from train.recipe_file import find_recipe, load_recipe
fabric = processes.join(load_recipe(find_recipe("digits")))
mine = processes.layout()
assert (mine.processes, mine.nodes) == (2, 1) == (fabric.world_size, 1)
nan, inf = float("nan"), float("inf")
values = torch.tensor([[[1.0, nan, 5.0, nan], [3.0, 4.0, 5.0, nan]], [[8.0, 2.0, inf, nan], [4.0, 6.0, -1.0, nan]]])
means, left_out = processes.mean_of_finite(values[mine.rank])
assert means[:3].tolist() == [4.0, 4.0, 3.0], means
assert means[3].isnan() and left_out == [0, 1, 1, 4], left_out
assert processes.any_of(not mine.first) and not processes.any_of(False)
assert processes.total(torch.tensor([mine.rank + 1.0])).tolist() == [3.0]
rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
part = rows[:11] if mine.first else rows[11:]
variance, mean = processes.pooled(*torch.var_mean(part, dim=0, correction=0), len(part))
for ours, theirs in zip((variance, mean), torch.var_mean(rows, dim=0, correction=0)):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
"""


def test_two_processes__of_torchrun_agree_on_means_and_statistics(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{TOGETHER}")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
