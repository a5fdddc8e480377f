"""Two processes (gloo, on the CPU) are one process: same batches, same moves, the same student."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import commands
import pyarrow.parquet
import pytest
import torch

from train import checkpoint, log, processes
from train.recipe_file import find_recipe, load_recipe
from train.run import is_finished, load_run

# Each process augments its own photos by draws of its own: what is compared has none.
PLAIN = ["augment.scale=[1,1]", "augment.mix=false", "augment.flip=0", "augment.jitter=0", "augment.grey=0"]

pytestmark = pytest.mark.timeout(900)  # processes of their own, maybe on a busy machine


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


def test_two_processes__killed_and_started_again_end_together(growing_recipe: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", (growing_recipe, "monitor=0", "--out", tmp_path / "run")
    first, second = commands.start_two(*words, output=tmp_path / "said.txt")
    code, said = second.signal_after(3, run, signal.SIGKILL)
    assert code == -signal.SIGKILL, said
    first.process.kill()  # torchrun ends those that a dead one leaves behind
    assert first.finish()[0] != 0
    assert not is_finished(run)
    said, _ = commands.finish_all(commands.start_two(*words, "--resume", output=tmp_path / "again.txt"))
    assert "resumed after step" in said
    assert is_finished(run)
    steps = [row.step for row in log.read(run / log.FILE)]
    assert steps == sorted(set(steps))
    assert checkpoint.load(checkpoint.latest(run / "checkpoints"))["step"] == steps[-1] == 12


def test_two_hosts__each_read_their_own_share_of_the_photos(
    growing_recipe: Path, own_folders: Path, tmp_path: Path
) -> None:
    (own_folders / "train" / "blue" / "away_0.png").write_bytes(b"not a photo")
    run, store = tmp_path / "run", tmp_path / "store"
    words = [growing_recipe, f"data.train={own_folders / 'train'}", f"data.val={own_folders / 'val'}"]
    words += [f"data.more=[{own_folders / 'train'}]", f"data.store={store}", "data.by_host=true", "monitor=0"]
    words += ["data.probe_photos=34"]  # fewer than all: the probe has a store of its own
    said = commands.finish_all(commands.start_two(*words, "--out", run, output=tmp_path / "said.txt", hosts=2))
    assert "68 photos to learn from" in said[0]  # of 36 a set; who has no broken photo leaves one out
    listed = [set(pyarrow.parquet.read_table(index)["path"].to_pylist()) for index in store.glob("*.parquet")]
    shares = [paths for paths in listed if all("train" in path for path in paths) and len(paths) in (17, 18)]
    assert len(shares) == 2  # each serves as `train` and as a further set
    assert not shares[0] & shares[1]
    assert len(shares[0] | shares[1]) == 35
    assert load_run(run).report.train_photos == 68
    rows = log.read(run / log.FILE)
    assert rows[-1].step == checkpoint.load(checkpoint.latest(run / "checkpoints"))["step"]


def test_two_processes__refuse_a_batch_that_they_cannot_share_out(growing_recipe: Path, tmp_path: Path) -> None:
    words = (growing_recipe, "batch=9", "--out", tmp_path / "run")
    for command in commands.start_two(*words, output=tmp_path / "said.txt"):
        code, said = command.finish()
        assert code == 2
        assert "train: batch=9 is the batch of all processes together" in said
    assert not (tmp_path / "run").exists()


def together() -> int:
    """What two processes agree on, asserted in each of them."""
    fabric = processes.join(load_recipe(find_recipe("digits")))
    mine = processes.layout()
    assert mine.processes == fabric.world_size == 2
    assert mine.rank == fabric.global_rank
    nan, inf = float("nan"), float("inf")
    values = torch.tensor([[[1, nan, 5, nan], [3, 4, 5, nan]], [[8, 2, inf, nan], [4, 6, -1, nan]]])
    means, left_out = processes.mean_of_finite(values[mine.rank])
    assert means[:3].tolist() == [4.0, 4.0, 3.0], means
    assert means[3].isnan()
    assert left_out == [0, 1, 1, 4], left_out
    assert processes.any_of(not mine.first)
    assert not processes.any_of(False)
    assert processes.total(torch.tensor([mine.rank + 1.0])).tolist() == [3.0]
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    part = rows[:11] if mine.first else rows[11:]
    variance, mean = processes.pooled(*torch.var_mean(part, dim=0, correction=0), len(part))
    for ours, theirs in zip((variance, mean), torch.var_mean(rows, dim=0, correction=0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    return 0


def test_two_processes__agree_on_means_and_statistics(tmp_path: Path) -> None:
    commands.finish_all(commands.call_two(together, output=tmp_path / "said.txt"))


def test_layout__is_what_torchrun_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.layout() == processes.Layout(rank=0, processes=1, host=0, hosts=1, local=0)
    script = tmp_path / "tell.py"
    script.write_text("import json, os, sys\njson.dump(dict(os.environ), open(sys.argv[1] + os.environ['RANK'], 'w'))")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
    launch += [f"--master_port={commands.free_port()}", str(script), str(tmp_path / "rank-")]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        told = json.loads((tmp_path / f"rank-{rank}").read_text())
        assert set(commands.TORCHRUN) | {"MASTER_PORT", "RANK", "LOCAL_RANK"} <= set(told)
        assert {key: told[key] for key in commands.TORCHRUN} == commands.TORCHRUN
        with monkeypatch.context() as patch:
            for key, value in told.items():
                patch.setenv(key, value)
            assert processes.layout() == processes.Layout(rank, processes=2, host=0, hosts=1, local=rank)
