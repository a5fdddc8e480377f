"""A student cut out of its teacher: the teacher itself at full size, near it when smaller, and whom it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from train import recipe
from train.errors import TrainError
from train.method import slicing
from train.method.distiller import Distiller
from train.method.student import make_student
from train.method.teacher import Teacher


def images(count: int = 48, side: int = 32) -> torch.Tensor:
    """Smooth images (count, 3, side, side): their tokens are correlated, as those of photos are."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic")


def start(teacher: Teacher, seen: torch.Tensor, **shape: int) -> tuple[nn.Module, nn.Linear]:
    """A student of `shape` that starts from the teacher, and its projection."""
    settings = {"img_size": 32, "patch_size": 8, "depth": 12, "num_classes": 0, **shape}
    student = timm.models.vision_transformer.VisionTransformer(**settings).eval()
    projection = nn.Linear(student.embed_dim, teacher.width)
    slicing.start_from_teacher(student, projection, teacher.vit, seen)
    return student, projection


@torch.no_grad()
def likeness(teacher: Teacher, student: nn.Module, projection: nn.Linear, asked: torch.Tensor) -> float:
    """Mean cosine, around the mean token, of projected student tokens to the teacher's."""
    ours = projection(student.forward_features(asked)).flatten(0, 1)
    theirs = teacher.vit.forward_features(asked).flatten(0, 1)
    centre = theirs.mean(0)
    return float(nn.functional.cosine_similarity(ours - centre, theirs - centre).mean())


@pytest.mark.parametrize(
    "options", [{}, {"init_values": 0.5}, {"qkv_bias": False}], ids=["plain", "layerscale", "bare"]
)
def test_student_of_the_teachers_size__is_the_teacher(make_teacher: Callable[..., Teacher], options: dict) -> None:
    teacher = make_teacher(**options)
    student, projection = start(teacher, images(), embed_dim=48, num_heads=3)
    asked = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(9))  # of another kind than was measured
    with torch.no_grad():
        ours, theirs = projection(student.forward_features(asked)), teacher.vit.forward_features(asked)
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("heads", [1, 2, 4], ids=["fewer heads", "two", "more heads"])
def test_smaller_student__is_nearer_to_the_teacher_than_chosen_channels(
    make_teacher: Callable[..., Teacher], heads: int
) -> None:
    teacher = make_teacher()
    student, projection = start(teacher, images(), embed_dim=32, num_heads=heads)
    near = likeness(teacher, student, projection, images()[:16])
    assert near > 0.4
    for block in student.blocks:  # what the cut weights of attention and MLP do is part of it
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.mlp.fc2.weight)
    assert near > likeness(teacher, student, projection, images()[:16]) + 0.1


def test_shallower_student__takes_blocks_evenly(make_teacher: Callable[..., Teacher]) -> None:
    teacher = make_teacher()
    student, _ = start(teacher, images(), embed_dim=48, num_heads=3, depth=6)
    for number, block in enumerate(student.blocks):
        theirs = teacher.vit.blocks[2 * number + 1].mlp.fc2.weight
        assert torch.linalg.matrix_norm(block.mlp.fc2.weight, 2) <= torch.linalg.matrix_norm(theirs, 2) * 1.001


def test_other_patch_and_resolution__are_resampled(make_teacher: Callable[..., Teacher]) -> None:
    teacher = make_teacher()
    student, projection = start(teacher, images(), embed_dim=48, num_heads=3, patch_size=16, img_size=64)
    with torch.no_grad():
        large = nn.functional.interpolate(images()[:8], (64, 64), mode="bicubic")
        ours = projection(student.forward_features(large))[:, 1:]
        theirs = teacher.vit.forward_features(images()[:8])[:, 1:]
    assert nn.functional.cosine_similarity(ours - theirs.mean(1, True), theirs - theirs.mean(1, True), -1).mean() > 0.8


@pytest.mark.parametrize(
    ("teacher_options", "student_options", "words"),
    [
        ({"model": "deit3_small_patch16_224"}, {}, "not a plain ViT"),
        ({"reg_tokens": 2}, {}, "student.registers=2"),
        ({}, {"size": "nano"}, "which is smaller"),
        ({}, {"layerscale": 0.1}, "exclude each other"),
    ],
    ids=["positions without CLS", "registers", "larger", "layerscale"],
)
def test_student_that_cannot_start_from_its_teacher__is_refused(
    make_teacher: Callable[..., Teacher], teacher_options: dict, student_options: dict, words: str
) -> None:
    teacher = make_teacher(**teacher_options)
    student = make_student(recipe.Student(**{"size": "digits", "patch": 8, **student_options}), pixels=32)
    with pytest.raises(TrainError, match=words):
        slicing.check_sliceable(teacher.vit, student)


def test_distiller__starts_where_its_teacher_is(make_distiller: Callable[..., Distiller], teacher: Teacher) -> None:
    fresh, warm = (make_distiller(loss={"targets": "raw"}, curriculum={"strategy": "last"}) for _ in range(2))
    warm.start_from_teacher(teacher, images())
    asked = images(8)
    ours, theirs = (each(asked, teacher.at(asked, (12,)), (12,))[0] for each in (warm, fresh))
    assert float(ours.detach()) < 0.1 * float(theirs.detach())


@pytest.mark.parametrize("block", [1, 6, 12])
def test_distiller_of_standardised_targets__starts_as_its_teacher_at_every_block(
    make_distiller: Callable[..., Distiller], teacher: Teacher, block: int
) -> None:
    warm = make_distiller(
        student={"init": "teacher"},
        loss={"targets": "standardised", "cls_weight": 1.0},
        curriculum={"strategy": "leap-grow"},
    )
    warm.start_from_teacher(teacher, images())
    asked = images(8)
    with torch.no_grad():
        loss, _ = warm(asked, teacher.at(asked, (block,)), (block,))
    assert loss < 0.01  # of patches and of CLS; 2 is what a student without any idea has
    for kind in ("cls", "patches"):  # the same g for both, as it will be exported
        torch.testing.assert_close(warm.folded_projection()[f"{kind}.weight"], warm.projection.weight.detach())


def test_mix_in__is_on_the_line_between_start_and_end(
    make_distiller: Callable[..., Distiller], teacher: Teacher
) -> None:
    distiller = make_distiller(student={"init": "teacher", "kept": 0.25}, curriculum={"strategy": "last"})
    distiller.start_from_teacher(teacher, images())
    start = {name: value.clone() for name, value in distiller.state_dict().items()}
    with torch.no_grad():
        for parameter in distiller.parameters():
            parameter += 1
    distiller.mix_in(start, distiller.recipe.student.kept)
    for name, value in distiller.named_parameters():
        expected = start[name] + (0.75 if name.startswith(("student.", "projection.")) else 1)
        torch.testing.assert_close(value.detach(), expected)


def test_kept__of_a_random_start_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs student\.init"):
        recipe.Student(size="digits", kept=0.5)
