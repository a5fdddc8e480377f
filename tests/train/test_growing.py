"""A student that grows with its target: deeper blocks rest, and join without a jolt; everyone knows its depth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from train import checkpoint
from train.data.store import Photos
from train.evaluate.monitor import Monitor
from train.loop import Training
from train.method.curriculum import Move
from train.method.distiller import Distiller
from train.method.student import tokens_at
from train.method.teacher import Teacher

# 8 steps; the last block has the last two, and the others share out the six before them.
GROW = {"strategy": "leap-grow", "last_share": 0.25, "every": 1}


def blocks_of(distiller: Distiller) -> list[dict[str, torch.Tensor]]:
    """The weights of each of the student's blocks, copied."""
    return [{key: value.clone() for key, value in block.state_dict().items()} for block in distiller.student.blocks]


def changed(before: list[dict[str, torch.Tensor]], after: list[dict[str, torch.Tensor]]) -> list[bool]:
    return [any(not torch.equal(one[key], other[key]) for key in one) for one, other in zip(before, after, strict=True)]


def stop(done: int) -> None:
    """End a training after its first epoch."""
    raise KeyboardInterrupt


def ran(training: Training, act: Callable[[], object]) -> list[int]:
    """The student's blocks (from 1) that run while `act` does."""
    seen: set[int] = set()
    blocks: nn.ModuleList = training.distiller.student.blocks
    hooks = [
        block.register_forward_hook(lambda *_, number=number: seen.add(number))
        for number, block in enumerate(blocks, 1)
    ]
    act()
    for hook in hooks:
        hook.remove()
    return sorted(seen)


def test_deeper_blocks__are_not_run_and_get_no_gradient(
    make_training: Callable[..., Training], teacher: Teacher, images: torch.Tensor
) -> None:
    training = make_training(curriculum=GROW)
    distiller = training.distiller

    def step() -> None:
        distiller(images, teacher.at(images, (5,)), (5,))[0].backward()

    assert ran(training, step) == [1, 2, 3, 4, 5]
    for number, block in enumerate(distiller.student.blocks, 1):
        assert all((parameter.grad is not None) == (number <= 5) for parameter in block.parameters())
    assert distiller.student.norm.weight.grad is not None
    assert distiller.projection.weight.grad is not None


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_deeper_blocks__do_not_change_while_they_wait(
    learn: Callable[..., Training], make_distiller: Callable[..., Distiller], tmp_path: Path, optimizer: str
) -> None:
    """Neither by weight decay nor by momentum."""
    parts = {"epochs": 4, "curriculum": GROW, "optimizer": {"name": optimizer, "weight_decay": 0.1, "lr": 0.01}}

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path, checkpoint_minutes=1e-9, after_epoch=stop, **parts)
    state = checkpoint.load(checkpoint.latest(tmp_path / "checkpoints"))
    depth = max(block for block, images in enumerate(state["block_images"], 1) if images)
    assert (state["step"], depth) == (4, 3)
    distiller = make_distiller(**parts)
    fresh = blocks_of(distiller)
    distiller.load_state_dict(state["distiller"])
    assert changed(fresh, blocks_of(distiller)) == [True] * depth + [False] * (12 - depth)


@pytest.mark.parametrize(("fresh", "jolt"), [("identity", False), ("random", True)])
def test_block_that_joins__leaves_the_tokens_alone_when_it_is_the_identity(
    make_distiller: Callable[..., Distiller], images: torch.Tensor, fresh: str, jolt: bool
) -> None:
    distiller = make_distiller(curriculum={**GROW, "fresh": fresh})
    with torch.no_grad():
        first, *deeper = tokens_at(distiller.student, images, range(1, 13))
        bare = make_distiller(curriculum={"strategy": "last"}).student
        whole, *_ = tokens_at(bare, images, [1])
    assert (first - whole).abs().max() == 0  # the first block is as it would have been
    apart = [float((tokens - first).abs().max()) for tokens in deeper]
    assert (min(apart) > 1e-3) if jolt else (max(apart) == 0)


def test_block_that_joins__begins_to_learn_at_once(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    distiller = make_distiller(curriculum=GROW)
    distiller(images, teacher.at(images, (2,)), (2,))[0].backward()
    joined = distiller.student.blocks[1]
    assert joined.attn.proj.weight.grad.abs().max() > 0
    assert joined.mlp.fc2.weight.grad.abs().max() > 0


def test_calibration__compares_each_block_at_the_depth_that_it_would_have(
    make_training: Callable[..., Training], teacher: Teacher, images: torch.Tensor
) -> None:
    training = make_training(curriculum={**GROW, "start": "calibrated", "fresh": "random"})
    distiller = training.distiller
    found = distiller.similarities(images, teacher.at(images, range(1, teacher.blocks + 1)))
    for block in (1, 4, 12):
        _, alike = distiller(images, teacher.at(images, (block,)), (block,))
        assert float(found[block - 1]) == pytest.approx(float(alike), abs=1e-5)


def test_monitor__measures_the_student_at_the_depth_that_it_has(make_training: Callable[..., Training]) -> None:
    training = make_training(curriculum={**GROW, "start": 4})
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    photos = Photos(pixels, np.arange(40) % 2, ("a", "b"), np.ones(40, np.float32))
    monitor = Monitor(photos, ((0.5,) * 3, (0.5,) * 3))
    assert ran(training, lambda: monitor.measure(training, 1)) == [1, 2, 3, 4]
    training.curriculum.history.append(Move(9, 12))
    assert ran(training, lambda: monitor.measure(training, 1)) == list(range(1, 13))


def test_run__that_stops_at_a_grown_depth_and_goes_on_is_the_run_that_did_not(
    learn: Callable[..., Training], tmp_path: Path
) -> None:
    whole, depths = learn(tmp_path / "whole", curriculum=GROW), []
    with pytest.raises(KeyboardInterrupt):  # after the first of two epochs
        learn(tmp_path / "stopped", curriculum=GROW, checkpoint_minutes=1e-9, after_epoch=stop)
    resumed = learn(tmp_path / "stopped", curriculum=GROW, resume=True, after_epoch=depths.append)
    assert depths == [2]
    assert resumed.curriculum.history == whole.curriculum.history
    assert len(whole.curriculum.history) > 4
    assert resumed.block_images == whole.block_images
    assert not any(changed(blocks_of(whole.distiller), blocks_of(resumed.distiller)))
    assert torch.equal(whole.distiller.projection.weight, resumed.distiller.projection.weight)
