"""The loop: what it counts, when the curriculum decides, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from train import checkpoint, log, processes
from train.errors import TrainError
from train.loop import Training
from train.method.losses import MEASURES

PLAIN = {"scale": (1, 1), "flip": 0, "jitter": 0, "grey": 0, "mix": False}
LEAP = {"strategy": "leap", "threshold": 1.0, "max_epochs": 1}


def test_loop__moves_at_ends_of_epochs_and_counts_the_images_of_each_block(
    learn: Callable[..., Training], tmp_path: Path
) -> None:
    training = learn(tmp_path, epochs=3, curriculum=LEAP)  # 3 x 4 steps of 8
    start = training.curriculum.history[0]
    assert (start.step, start.reason) == (0, "calibration")
    moves = [(move.step, move.block) for move in training.curriculum.history[1:]]
    assert moves == [(4 * turn, start.block + turn) for turn in (1, 2, 3)][: 12 - start.block]
    expected = [0] * 12
    for turn in range(3):
        expected[min(start.block + turn, 12) - 1] += 32
    assert training.block_images == expected
    assert training.calibration_images == 8
    assert training.step == 12


def test_loop__logs_every_tenth_step_and_the_last(learn: Callable[..., Training], tmp_path: Path) -> None:
    done: list[int] = []
    learn(
        tmp_path,
        epochs=3,
        curriculum={"strategy": "last", "every": 10},
        optimizer={"lr": 5e-4},
        after_epoch=done.append,
    )
    rows = log.read(tmp_path / log.FILE)
    assert [(row.step, row.block) for row in rows] == [(10, 12), (12, 12)]
    assert done == [1, 2, 3]
    assert rows[0].loss > 0
    assert rows[1].rate == pytest.approx(5e-7)  # as small as they get, and still told apart
    assert 0 <= rows[1].waiting < 1
    assert rows[1].images_per_second > 0


def test_loop__of_a_batch_in_pieces_is_the_one_of_whole_batches(learn: Callable[..., Training], tmp_path: Path) -> None:
    parts = {"augment": PLAIN, "curriculum": {**LEAP, "similarity": "cosine"}}
    whole = learn(tmp_path / "whole", **parts)
    pieces = learn(tmp_path / "pieces", accumulate=4, **parts)
    starts = [training.curriculum.history[0].similarity for training in (whole, pieces)]
    assert starts[0] == pytest.approx(starts[1], abs=0.1)  # calibration sees the first piece
    assert pieces.block_images == whole.block_images
    assert pieces.calibration_images == 2
    for ours, theirs in zip(pieces.distiller.parameters(), whole.distiller.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("every", [1, 3])
def test_loss_that_is_not_finite__is_an_error_that_names_the_step(
    learn: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    steps: list[int] = []

    def poisoned(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return (ours - theirs).square().mean() * (float("nan") if len(steps) >= 9 else 1)  # two calls a step

    monkeypatch.setattr("torch.nn.functional.mse_loss", poisoned)
    step = {1: 5, 3: 6}[every]  # the fifth step is poisoned, and noticed at the next decision
    with pytest.raises(TrainError, match=rf"not finite at step {step} \(it was before step 5\): lower optimizer.lr"):
        learn(tmp_path, curriculum={"strategy": "last", "every": every}, checkpoint_minutes=1e-9)
    assert checkpoint.load(checkpoint.latest(tmp_path / "checkpoints"))["step"] == 4  # what was saved is well


def test_similarity_that_is_not_finite__is_left_out(
    learn: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def now_and_then(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.tensor(float("nan") if len(calls) % 4 == 0 else 0.5)

    monkeypatch.setitem(MEASURES, "cka", now_and_then)
    learn(tmp_path, curriculum={"strategy": "last", "every": 2})  # 8 steps
    assert log.read(tmp_path / log.FILE)[-1].similarity == 0.5


def test_precision__bf16_learns_in_float32_weights(learn: Callable[..., Training], tmp_path: Path) -> None:
    training = learn(tmp_path, epochs=1, precision="bf16", curriculum=LEAP)
    assert {parameter.dtype for parameter in training.distiller.parameters()} == {torch.float32}
    assert log.read(tmp_path / log.FILE)[-1].loss > 0


@pytest.mark.parametrize(("fast", "used"), [(True, "bf16"), (False, "fp32")])
def test_precision__bf16_is_not_emulated(monkeypatch: pytest.MonkeyPatch, fast: bool, used: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    assert [processes.usable(one) for one in ("bf16", "fp32", "fp16")] == [used, "fp32", "fp16"]
