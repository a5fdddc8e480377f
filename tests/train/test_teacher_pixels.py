"""A teacher and a student that see the same views, each at its own size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from train import processes, recipe
from train.data.sampling import Epochs, Mixture
from train.loop import Training, train
from train.method import curriculum
from train.method.distiller import Distiller
from train.method.teacher import Teacher, make_vit


def test_teacher_of_other_pixels__sees_the_photo_enlarged(make_teacher: Callable[..., Teacher]) -> None:
    teacher = make_teacher(img_size=48)
    small = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large = functional.interpolate(small, (48, 48), mode="bicubic", antialias=True)
    assert teacher(small, 12).patches.shape == (2, 36, 48)
    torch.testing.assert_close(teacher(small, 12).cls, teacher(large, 12).cls)


def test_recipe__decides_the_pixels_of_the_teacher() -> None:
    spec = recipe.TeacherSettings(model="vit_tiny_patch16_224", pixels=96)
    assert Teacher(make_vit(spec, 64)).vit.patch_embed.grid_size == (6, 6)


def test_distiller__matches_the_larger_teachers_grid(
    make_teacher: Callable[..., Teacher], make_training: Callable[..., Training], images: torch.Tensor
) -> None:
    teacher = make_teacher(img_size=48, num_classes=3)
    distiller = make_training(teacher=teacher).distiller
    loss, _ = distiller(images, teacher.at(images, (12,)), (12,))
    assert torch.isfinite(loss)


def test_larger_teacher__sees_the_detail_and_the_student_the_same_view_reduced(
    make_teacher: Callable[..., Teacher],
    make_recipe: Callable[..., recipe.Recipe],
    photos: Mixture,
    tmp_path: Path,
) -> None:
    teacher = make_teacher(img_size=48, num_classes=3)
    spec = make_recipe(teacher={"pixels": 48}, curriculum={"strategy": "last"}, epochs=1)
    plan = curriculum.make(spec.curriculum, teacher.blocks, steps_per_epoch=4, epochs=1)
    training, seen = Training(Distiller(spec, teacher, plan), plan), {"teacher": [], "student": []}
    for name, module in (("teacher", teacher.vit), ("student", training.distiller.student)):
        module.patch_embed.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0].detach()))
    epochs = Epochs.of([len(photos)], [1.0], batch=spec.batch, seed=spec.seed)
    train(spec, teacher, training, photos, epochs, tmp_path, processes.join(spec))
    large, small = seen["teacher"][-1], seen["student"][-1]
    assert (large.shape[-1], small.shape[-1]) == (48, 32)
    torch.testing.assert_close(functional.interpolate(large, (32, 32), mode="bicubic", antialias=True), small)
    back = functional.interpolate(small, (48, 48), mode="bicubic", antialias=True)
    assert (large - back).abs().mean() > 0.05  # the photos are noise: the teacher sees more of it than the student
