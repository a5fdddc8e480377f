"""The published step, recomputed by hand; the projection folded back into the teacher's own space; what is saved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from train.loop import Training, make_optimizer
from train.method.distiller import Distiller
from train.method.flops import student_flops
from train.method.losses import linear_cka
from train.method.teacher import Teacher
from train.recipe import Recipe

RAW = {"targets": "raw", "cls_weight": 0.05}
STANDARDISED = {"targets": "standardised", "cls_weight": 1.0}


def by_hand(
    distiller: Distiller, teacher: Teacher, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student tokens (B, 1 + N, D_s), projected tokens (B, 1 + N, D_t) and all teacher blocks (L, B, 1 + N, D_t)."""
    vit, blocks = teacher.vit, []
    hooks = [block.register_forward_hook(lambda _, __, out: blocks.append(vit.norm(out))) for block in vit.blocks]
    with torch.no_grad():
        vit.forward_features(images)
        student = distiller.student.forward_features(images)
        tokens = student @ distiller.projection.weight.T + distiller.projection.bias
    for hook in hooks:
        hook.remove()
    return student, tokens, torch.stack(blocks)


def step(distiller: Distiller, teacher: Teacher, images: torch.Tensor, *targets: int) -> torch.Tensor:
    """The loss of a step whose targets are these."""
    return distiller(images, teacher.at(images, targets), targets)[0]


def test_step__is_the_published_loss_and_similarity(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    distiller = make_distiller(loss=RAW)
    _, tokens, blocks = by_hand(distiller, teacher, images)
    for target in (1, 7, 12):
        expected = (tokens[:, 1:] - blocks[target - 1][:, 1:]).square().mean()
        expected += 0.05 * (tokens[:, 0] - blocks[target - 1][:, 0]).square().mean()
        loss, similarity = distiller(images, teacher.at(images, (target,)), (target,))
        assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
        cka = float(linear_cka(tokens[:, 1:], blocks[target - 1][:, 1:]))
        assert float(similarity) == pytest.approx(cka, abs=1e-4)
        assert not similarity.requires_grad


def test_calibration__compares_with_every_block(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    distiller = make_distiller()
    _, tokens, blocks = by_hand(distiller, teacher, images)
    expected = [float(linear_cka(tokens[:, 1:], block[:, 1:])) for block in blocks]
    found = distiller.similarities(images, teacher.at(images, range(1, teacher.blocks + 1)))
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_step__moves_the_student_and_the_projection_only(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    distiller = make_distiller(loss=RAW)
    step(distiller, teacher, images, 3).backward()
    assert all(parameter.grad is not None for parameter in distiller.student.parameters())
    assert distiller.projection.weight.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    optimised = {id(p) for group in make_optimizer(distiller.recipe, distiller).param_groups for p in group["params"]}
    assert optimised == {id(p) for p in [*distiller.student.parameters(), *distiller.projection.parameters()]}


def test_step__standardises_targets_per_channel(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    distiller = make_distiller(loss=STANDARDISED)
    _, tokens, blocks = by_hand(distiller, teacher, images)
    expected = 0.0
    for part in (slice(1, None), slice(0, 1)):
        rows = blocks[4][:, part].flatten(0, 1)
        scaled = (blocks[4][:, part] - rows.mean(0)) / (rows.std(0, correction=0) + 1e-4)
        expected += float((tokens[:, part] - scaled).square().mean())
    assert float(step(distiller, teacher, images, 5).detach()) == pytest.approx(expected, rel=1e-3)


def test_fold__of_raw_targets_is_the_projection(make_distiller: Callable[..., Distiller]) -> None:
    distiller = make_distiller(loss=RAW)
    folded = distiller.folded_projection()
    for name in ("cls", "patches"):
        torch.testing.assert_close(folded[f"{name}.weight"], distiller.projection.weight.detach())
        torch.testing.assert_close(folded[f"{name}.bias"], distiller.projection.bias.detach())


def test_fold__of_standardised_targets_gives_the_space_of_the_deepest_block_that_was_one(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    """A curriculum that moves on after the last step leaves deeper blocks without statistics."""
    distiller = make_distiller(loss=STANDARDISED)
    student, tokens, blocks = by_hand(distiller, teacher, images)
    for target in (2, 6):
        step(distiller, teacher, images, target)
    folded = distiller.folded_projection()
    for name, part in (("patches", slice(1, None)), ("cls", slice(0, 1))):
        rows = blocks[5][:, part].flatten(0, 1)
        expected = tokens[:, part] * (rows.std(0, correction=0) + 1e-4) + rows.mean(0)
        found = functional.linear(student[:, part], folded[f"{name}.weight"], folded[f"{name}.bias"])
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_student_of_larger_patches__learns_from_the_teachers_resized_map(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    distiller = make_distiller(student={"patch": 16}, loss={"targets": "raw", "cls_weight": 0})
    _, tokens, blocks = by_hand(distiller, teacher, images)
    grid = blocks[11][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    resized = functional.interpolate(grid, (2, 2), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    loss = float(step(distiller, teacher, images, 12).detach())
    assert loss == pytest.approx(float((tokens[:, 1:] - resized).square().mean()), rel=1e-4)


def test_state__leaves_the_teacher_out_and_comes_back_whole(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    first, second = make_distiller(loss=STANDARDISED), make_distiller(loss=STANDARDISED)
    step(first, teacher, images, 4)
    torch.nn.init.normal_(first.projection.weight)
    state = first.state_dict()
    assert {key.partition(".")[0] for key in state} == {"student", "projection", "scale"}
    second.load_state_dict(state)
    for key, value in first.folded_projection().items():
        torch.testing.assert_close(second.folded_projection()[key], value)


def test_one_to_one__matches_every_target_by_the_students_own_block(
    make_training: Callable[..., Training], teacher: Teacher, images: torch.Tensor
) -> None:
    training = make_training(loss=RAW, curriculum={"strategy": "one-to-one"})
    distiller, own = training.distiller, []
    _, _, blocks = by_hand(distiller, teacher, images)
    student = distiller.student
    hooks = [block.register_forward_hook(lambda _, __, out: own.append(student.norm(out))) for block in student.blocks]
    student.forward_features(images)
    for hook in hooks:
        hook.remove()
    expected = 0.0
    for tokens, block, projection in zip(own, blocks, [*distiller.others, distiller.projection], strict=True):
        error = (projection(tokens) - block).detach().square()
        expected += float(error[:, 1:].mean() + 0.05 * error[:, 0].mean()) / 12
    loss = step(distiller, teacher, images, *training.curriculum.targets)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert all(layer.weight.grad is not None for layer in distiller.others)
    trained = {id(p) for group in make_optimizer(distiller.recipe, distiller).param_groups for p in group["params"]}
    assert all(id(layer.weight) in trained for layer in distiller.others)


def test_one_to_one__of_a_shallower_student_uses_each_depths_nearest_block(
    make_training: Callable[..., Training], teacher: Teacher, images: torch.Tensor
) -> None:
    training = make_training(curriculum={"strategy": "one-to-one"})
    training.distiller.student.blocks = training.distiller.student.blocks[:5]
    step(training.distiller, teacher, images, *training.curriculum.targets).backward()
    assert all(parameter.grad is not None for parameter in training.distiller.student.parameters())


@pytest.mark.parametrize("similarity", ["cka", "cosine"])
def test_step__is_finite_by_every_similarity(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor, similarity: str
) -> None:
    distiller = make_distiller(curriculum={"similarity": similarity})
    loss, alike = distiller(images, teacher.at(images, (3,)), (3,))
    assert loss.isfinite()
    assert -1 <= float(alike) <= 1


@pytest.mark.parametrize("loss", [RAW, STANDARDISED])
def test_fitted_classifier__learns_the_teachers_classes_without_an_effect_on_the_student(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor, loss: dict
) -> None:
    fitting = make_distiller(student={"classifier": "fitted"}, loss=loss, curriculum={"strategy": "last"})
    plain = make_distiller(loss=loss, curriculum={"strategy": "last"})
    plain.load_state_dict({k: v for k, v in fitting.state_dict().items() if not k.startswith("classifier.")})
    extra = [float((step(fitting, teacher, images, 12) - step(plain, teacher, images, 12)).detach())]
    for one in (fitting, plain):
        one.zero_grad()
        step(one, teacher, images, 12).backward()
    others = dict(fitting.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(others[name].grad, parameter.grad, rtol=0, atol=0)
    groups = make_optimizer(fitting.recipe, fitting).param_groups
    still = {id(one) for group in groups if group["weight_decay"] == 0 for one in group["params"]}
    assert {id(one) for one in fitting.classifier.parameters()} <= still
    learning = torch.optim.Adam(fitting.classifier.parameters(), 0.01)
    for _ in range(200):
        learning.zero_grad()
        step(fitting, teacher, images, 12).backward()
        learning.step()
    extra.append(float((step(fitting, teacher, images, 12) - step(plain, teacher, images, 12)).detach()))
    assert 0 <= extra[1] < 0.7 * extra[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_fitted_classifier__reads_cls_in_the_teachers_own_space(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    """Its loss is that of the deployed projection, whose fold restores the scale of standardized targets."""
    distiller = make_distiller(student={"classifier": "fitted"}, loss=STANDARDISED, curriculum={"strategy": "last"})
    plain = make_distiller(loss=STANDARDISED, curriculum={"strategy": "last"})
    plain.load_state_dict({k: v for k, v in distiller.state_dict().items() if not k.startswith("classifier.")})
    found = float((step(distiller, teacher, images, 12) - step(plain, teacher, images, 12)).detach())
    student, _, blocks = by_hand(distiller, teacher, images)
    folded = distiller.folded_projection()
    cls = functional.linear(student[:, 0], folded["cls.weight"], folded["cls.bias"])
    theirs = teacher.vit.head(blocks[11][:, 0]).log_softmax(1)
    expected = 0.1 * (theirs.exp() * (theirs - teacher.vit.head(cls).log_softmax(1))).sum(1).mean()
    assert found == pytest.approx(float(expected), rel=1e-2, abs=1e-4)


def test_fitted_classifier__rests_while_a_shallower_block_is_the_target(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    distiller = make_distiller(student={"classifier": "fitted"})
    step(distiller, teacher, images, 3).backward()
    assert all(parameter.grad is None for parameter in distiller.classifier.parameters())


def test_fitted_classifier__needs_a_head_of_the_teacher(make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(ValueError, match=r"needs teacher\.head"):
        make_recipe(student={"classifier": "fitted"}, teacher={"head": None})


def test_frozen_student__leaves_the_classifier_alone_to_learn(
    make_distiller: Callable[..., Distiller], teacher: Teacher, images: torch.Tensor
) -> None:
    student = {"classifier": "fitted", "frozen": True, "init": "teacher"}
    distiller = make_distiller(student=student, loss=STANDARDISED, curriculum={"strategy": "last"})
    step(distiller, teacher, images, 12).backward()
    groups = make_optimizer(distiller.recipe, distiller).param_groups
    assert {id(one) for group in groups for one in group["params"]} == {
        id(one) for one in distiller.classifier.parameters()
    }
    assert {name.partition(".")[0] for name, one in distiller.named_parameters() if one.grad is not None} == {
        "classifier"
    }
    assert student_flops(distiller, images[:1], 12) > 0


@pytest.mark.parametrize("student", [{"classifier": "fitted"}, {"init": "teacher"}])
def test_frozen_student__needs_something_that_learns(make_recipe: Callable[..., Recipe], student: dict) -> None:
    with pytest.raises(ValueError, match="nothing else would learn"):
        make_recipe(student={"frozen": True, **student})
