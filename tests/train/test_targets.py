"""The teacher's tokens of fixed views are computed once, and then read by every run that needs the same ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from train import processes
from train.data.augment import Augmenter
from train.data.sampling import Epochs, Mixture
from train.loop import Training, train
from train.method.distiller import match_grid
from train.method.targets import TargetStore
from train.method.teacher import Teacher
from train.recipe import Recipe

NO_MIX = {"augment": {"mix": False}, "curriculum": {"strategy": "last"}}


@pytest.fixture
def spec(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Recipe:
    """A recipe with two views per photo, and a store of its own."""
    return make_recipe(data={"views": 2, "store": str(tmp_path)}, **NO_MIX)


def images_of(spec: Recipe, photos: Mixture, views: np.ndarray) -> torch.Tensor:
    return Augmenter(spec.augment, spec.preprocessing.size, spec.seed, (0.5,) * 3, (0.5,) * 3)(
        *photos.read(views), views
    )


def test_tokens__are_the_teachers_and_are_computed_once(spec: Recipe, photos: Mixture, teacher: Teacher) -> None:
    store, views = TargetStore(spec, photos, teacher, patches=4), np.array([3, 40, 7])
    images = images_of(spec, photos, views)
    first = store.at(views, images)
    assert store.recalled == 0
    expected = teacher(images, teacher.blocks)
    torch.testing.assert_close(first.cls, expected.cls, rtol=1e-3, atol=1e-3)  # kept as float16
    torch.testing.assert_close(first.patches, match_grid(expected.patches, first.patches), rtol=1e-3, atol=1e-3)
    again = TargetStore(spec, photos, teacher, patches=4)  # another run
    mixed = again.at(np.array([7, 5]), images_of(spec, photos, np.array([7, 5])))
    assert again.recalled == 1
    assert torch.equal(mixed.cls[0], first.cls[2])
    assert torch.equal(mixed.patches[0], first.patches[2])


def test_tokens__of_another_teacher_seed_or_grid_are_kept_apart(
    spec: Recipe, photos: Mixture, teacher: Teacher, make_teacher: Callable[..., Teacher]
) -> None:
    other = make_teacher(num_classes=3)
    other.vit.norm.weight.data += 1
    reseeded = msgspec.structs.replace(spec, seed=5)
    stores = [
        TargetStore(spec, photos, teacher, 16),
        TargetStore(spec, photos, teacher, 4),
        TargetStore(spec, photos, other, 16),
        TargetStore(reseeded, photos, teacher, 16),
    ]
    assert len({store.tokens.filename for store in stores}) == 4


def test_training__with_the_store_is_the_one_without_it(
    make_training: Callable[..., Training], photos: Mixture, teacher: Teacher, spec: Recipe, tmp_path: Path
) -> None:
    """Of the same views; the store rounds tokens to float16."""

    def trained(known: TargetStore | None, folder: str) -> torch.Tensor:
        training = make_training(data={"views": 2, "store": str(tmp_path)}, **NO_MIX, epochs=3)
        recipe = training.distiller.recipe
        epochs = Epochs.of([len(photos)], [1.0], batch=8, seed=0, views=2)
        train(recipe, teacher, training, photos, epochs, tmp_path / folder, processes.join(recipe), known=known)
        return training.distiller.projection.weight.detach()

    known = TargetStore(spec, photos, teacher, patches=16)
    with_store, without = trained(known, "with"), trained(None, "without")
    torch.testing.assert_close(with_store, without, rtol=0.02, atol=1e-4)
    assert known.recalled == 32  # of 96 images, in 2 views of 32 photos
    again = TargetStore(spec, photos, teacher, patches=16)
    trained(again, "again")
    assert again.recalled == 96


def test_views__of_mixed_photos_are_refused(make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"data\.views needs augment\.mix=false"):
        make_recipe(data={"views": 2})
