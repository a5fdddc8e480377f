"""The published step, recomputed by hand; the projection folded back into the teacher's own space; what is saved."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from train.distill import Distiller
from train.errors import TrainError
from train.similarity import linear_cka

RAW = {"targets": "raw", "cls_weight": 0.05}
STANDARDISED = {"targets": "standardised", "cls_weight": 1.0}


def views(distiller: Distiller, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student tokens (B, 1 + N, D_s), projected tokens (B, 1 + N, D_t) and all teacher blocks (L, B, 1 + N, D_t)."""
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
    images = (distiller.augment(pixels, 0) - mean) / std
    with torch.no_grad():
        student = distiller.student.forward_features(images)
        blocks, tokens = [], None
        vit = distiller.teacher.vit
        hooks = [block.register_forward_hook(lambda _, __, out: blocks.append(vit.norm(out))) for block in vit.blocks]
        vit.forward_features(images)
        for hook in hooks:
            hook.remove()
        tokens = student @ distiller.projection.weight.T + distiller.projection.bias
    return student, tokens, torch.stack(blocks)


def test_step__is_the_published_loss_on_the_most_similar_block(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor
) -> None:
    distiller = make_distiller(loss=RAW)
    _, tokens, blocks = views(distiller, pixels)
    similar = [float(linear_cka(tokens[:, 1:], block[:, 1:])) for block in blocks]
    at = similar.index(max(similar))
    expected = (tokens[:, 1:] - blocks[at][:, 1:]).square().mean()
    expected += 0.05 * (tokens[:, 0] - blocks[at][:, 0]).square().mean()

    loss = distiller.training_step(pixels, 0)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert distiller.curriculum.history[0].block == at + 1
    assert distiller.curriculum.history[0].similarity == pytest.approx(max(similar), abs=1e-4)
    assert distiller.block_images == [len(pixels) * int(block == at) for block in range(12)]
    assert distiller.calibration_images == len(pixels)


def test_step__moves_the_student_and_the_projection_only(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor
) -> None:
    distiller = make_distiller(loss=RAW)
    distiller.training_step(pixels, 0).backward()
    assert all(parameter.grad is not None for parameter in distiller.student.parameters())
    assert distiller.projection.weight.grad is not None
    assert all(parameter.grad is None for parameter in distiller.teacher.parameters())
    optimised = {
        id(parameter)
        for group in distiller.configure_optimizers()["optimizer"].param_groups
        for parameter in group["params"]
    }
    assert optimised == {id(p) for p in [*distiller.student.parameters(), *distiller.projection.parameters()]}


def test_step__standardises_targets_per_channel(make_distiller: Callable[..., Distiller], pixels: torch.Tensor) -> None:
    distiller = make_distiller(loss=STANDARDISED)
    _, tokens, blocks = views(distiller, pixels)
    loss = distiller.training_step(pixels, 0)
    target = blocks[distiller.curriculum.history[0].block - 1]
    expected = 0.0
    for part in (slice(1, None), slice(0, 1)):
        rows = target[:, part].flatten(0, 1)
        scaled = (target[:, part] - rows.mean(0)) / (rows.std(0, correction=0) + 1e-4)
        expected += float((tokens[:, part] - scaled).square().mean())
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_fold__of_raw_targets_is_the_projection(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller(loss=RAW)
    folded = distiller.folded_projection()
    for name in ("cls", "patches"):
        torch.testing.assert_close(folded[f"{name}.weight"], distiller.projection.weight.detach())
        torch.testing.assert_close(folded[f"{name}.bias"], distiller.projection.bias.detach())


@pytest.mark.parametrize("moves_at_the_end", [False, True])
def test_fold__of_standardised_targets_gives_the_teachers_space(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor, moves_at_the_end: bool
) -> None:
    """Also when the curriculum moved on after the last step: the new block has no statistics yet."""
    epochs = 0.25 if moves_at_the_end else 5.0  # of 4 steps
    curriculum = {"strategy": "leap", "max_epochs": epochs, "threshold": 1.0}
    distiller = make_distiller(loss=STANDARDISED, curriculum=curriculum)
    student, tokens, blocks = views(distiller, pixels)
    distiller.training_step(pixels, 0)
    start = distiller.curriculum.history[0].block
    assert distiller.curriculum.block == start + moves_at_the_end
    folded = distiller.folded_projection()
    for name, part in (("patches", slice(1, None)), ("cls", slice(0, 1))):
        rows = blocks[start - 1][:, part].flatten(0, 1)
        expected = tokens[:, part] * (rows.std(0, correction=0) + 1e-4) + rows.mean(0)
        found = functional.linear(student[:, part], folded[f"{name}.weight"], folded[f"{name}.bias"])
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_last__asks_the_whole_teacher_without_calibration(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor
) -> None:
    distiller = make_distiller(curriculum={"strategy": "last"})
    distiller.training_step(pixels, 0)
    assert distiller.block_images == [0] * 11 + [len(pixels)]
    assert distiller.calibration_images == 0


def test_student_of_larger_patches__learns_from_the_teachers_resized_map(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor
) -> None:
    distiller = make_distiller(student={"patch": 16}, loss={"targets": "raw", "cls_weight": 0})
    loss = distiller.training_step(pixels, 0)
    _, tokens, blocks = views(distiller, pixels)
    target = blocks[distiller.curriculum.history[0].block - 1][:, 1:]
    grid = target.transpose(1, 2).unflatten(2, (4, 4))
    resized = functional.interpolate(grid, (2, 2), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    assert float(loss) == pytest.approx(float((tokens[:, 1:] - resized).square().mean()), rel=1e-4)


def test_rate__warms_up_then_falls_to_its_final_share(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller(optimizer={"lr": 1e-2, "warmup_epochs": 0.5, "final_share": 0.1})  # 8 steps
    optimiser = distiller.configure_optimizers()
    scheduler = optimiser["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(9):
        rates.append(scheduler.get_last_lr()[0])
        optimiser["optimizer"].step()
        scheduler.step()
    assert rates[:3] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[5] == pytest.approx(1e-2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2))))
    assert rates[8] == pytest.approx(1e-3)


def test_state__leaves_the_teacher_out_and_comes_back_whole(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor
) -> None:
    first, second = make_distiller(loss=STANDARDISED), make_distiller(loss=STANDARDISED)
    first.training_step(pixels, 0)
    torch.nn.init.normal_(first.projection.weight)
    state = first.state_dict()
    assert not [key for key in state if key.startswith("teacher.")]
    second.load_state_dict(state)
    for key, value in first.folded_projection().items():
        torch.testing.assert_close(second.folded_projection()[key], value)


def test_checkpoint__of_another_student_or_tool_is_refused(make_distiller: Callable[..., Distiller]) -> None:
    micro = make_distiller(student={"size": "micro"})
    with pytest.raises(TrainError, match="another student"):
        micro.load_state_dict(make_distiller().state_dict())
    with pytest.raises(TrainError, match="no curriculum"):
        micro.on_load_checkpoint({"state_dict": {}})


def test_checkpoint__of_another_strategy_is_a_users_error(make_distiller: Callable[..., Distiller]) -> None:
    saved: dict = {}
    make_distiller(curriculum={"strategy": "last"}).on_save_checkpoint(saved)
    with pytest.raises(TrainError, match="strategy='Last', this run has 'Leap'"):
        make_distiller().on_load_checkpoint(saved)


@pytest.mark.parametrize(("strategy", "targets"), [("one-to-one", 12), ("last-two", 2)])
def test_layerwise__matches_every_target_by_the_students_own_block(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor, strategy: str, targets: int
) -> None:
    distiller = make_distiller(loss=RAW, curriculum={"strategy": strategy})
    assert len(distiller.others) == targets - 1
    _, _, blocks = views(distiller, pixels)
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
    images = (distiller.augment(pixels, 0) - mean) / std
    own: list[torch.Tensor] = []
    student = distiller.student
    hooks = [block.register_forward_hook(lambda _, __, out: own.append(student.norm(out))) for block in student.blocks]
    with torch.no_grad():
        student.forward_features(images)
    for hook in hooks:
        hook.remove()
    expected = 0.0
    for index, projection in zip(range(12 - targets, 12), [*distiller.others, distiller.projection], strict=True):
        error = (projection(own[index]) - blocks[index]).square()
        expected += float(error[:, 1:].mean() + 0.05 * error[:, 0].mean()) / targets
    loss = distiller.training_step(pixels, 0)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert all(layer.weight.grad is not None for layer in distiller.others)
    trained = {id(p) for group in distiller.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert all(id(layer.weight) in trained for layer in distiller.others)


@pytest.mark.parametrize("strategy", ["one-to-one", "last-two"])
def test_layerwise__of_a_shallower_student_uses_each_depths_nearest_block(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor, strategy: str
) -> None:
    distiller = make_distiller(curriculum={"strategy": strategy})
    distiller.student.blocks = distiller.student.blocks[:5]
    distiller.training_step(pixels, 0).backward()
    assert all(parameter.grad is not None for parameter in distiller.student.parameters())


def test_weight_decay__spares_positions_tokens_and_biases(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller()
    groups = distiller.configure_optimizers()["optimizer"].param_groups
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    spared = {name for name, parameter in distiller.trained().named_parameters() if id(parameter) not in decayed}
    assert {"student.pos_embed", "student.cls_token", "projection.bias", "student.blocks.0.norm1.weight"} <= spared
    assert "projection.weight" not in spared
    assert "student.blocks.0.mlp.fc1.weight" not in spared


@pytest.mark.parametrize("name", ["fixed", "linear", "leap-budget"])
@pytest.mark.parametrize("similarity", ["cka", "cosine", "recoverability"])
def test_step__runs_by_every_strategy_and_similarity(
    make_distiller: Callable[..., Distiller], pixels: torch.Tensor, name: str, similarity: str
) -> None:
    curriculum = {"strategy": name, "similarity": similarity} | ({"block": 3} if name == "fixed" else {})
    distiller = make_distiller(curriculum=curriculum, loss={"distance": "cosine-smooth-l1"})
    assert distiller.training_step(pixels, 0).isfinite()
    assert sum(distiller.block_images) == len(pixels)
    if name == "fixed":
        assert distiller.block_images[2] == len(pixels)
