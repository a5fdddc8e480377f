"""Photos: where they are, which are left out, and that a batch depends on seed and step only."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leap_zoo.card import Preprocessing
from leap_zoo.preprocess import to_tensor
from train import recipe
from train.data import Augmenter, EpochSampler, class_labels, find_splits, imagenet_indices, imagenet_labels
from train.errors import TrainError

SQUARE = Preprocessing(size=32, short_side=36)


def data(root: Path | None = None, **values: object) -> recipe.Data:
    folders = {} if root is None else {"train": str(root / "train"), "val": str(root / "val")}
    return recipe.Data(**{"name": "drawn", "head": "colours", **folders, **values})


def names(split: object) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in split.sources}


def test_folders__give_sorted_classes_and_matching_labels(photo_folders: Path) -> None:
    splits = find_splits(data(photo_folders))
    assert splits.train.classes == ("blue", "green", "red")
    assert (len(splits.train), len(splits.val), len(splits.held_out)) == (36, 18, 0)
    for split in (splits.train, splits.val):
        assert all(
            split.classes[label] == path.parent.name for path, label in zip(split.sources, split.labels, strict=True)
        )


def test_held_out__is_kept_from_training_and_collected_from_both_folders(photo_folders: Path) -> None:
    splits = find_splits(data(photo_folders, held_out="away_*"))
    assert not any("away" in name for name in names(splits.train))
    assert len(splits.train) == 27
    assert all(path.name.startswith("away_") for path in splits.held_out.sources)
    assert len(splits.held_out) == 9 + 6
    assert len(splits.val) == 18
    owners = [splits.held_out.classes[label] for label in splits.held_out.labels]
    assert owners == [path.parent.name for path in splits.held_out.sources]


def test_decode__is_the_shared_preprocessing(photo_folders: Path) -> None:
    split = find_splits(data(photo_folders)).val
    photos = split.decode(SQUARE)
    assert photos.pixels.dtype == np.uint8
    assert photos.pixels.shape == (18, 32, 32, 3)
    for position in (0, 7, 17):
        np.testing.assert_array_equal(photos.pixels[position], to_tensor(split.sources[position], SQUARE))


def test_decode__leaves_broken_photos_out_and_says_so(own_folders: Path, capsys: pytest.CaptureFixture) -> None:
    broken = own_folders / "train" / "green" / "kept_1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (own_folders / "train" / "green" / "kept_2.png").write_text("no photo")
    (own_folders / "train" / "green" / "notes.txt").write_text("no photo either, and not called one")
    photos = find_splits(data(own_folders)).train.decode(SQUARE, "training photos")
    assert (len(photos), len(photos.skipped)) == (34, 2)
    assert np.bincount(photos.labels).tolist() == [12, 10, 12]
    said = capsys.readouterr().out
    assert "2 of 36 training photos left out" in said
    assert "kept_1.png" in said


def test_decode__of_broken_photos_only_is_an_error(own_folders: Path) -> None:
    for path in (own_folders / "val").rglob("*.png"):
        path.write_text("no photo")
    with pytest.raises(TrainError, match="none of the 18 photos can be decoded"):
        find_splits(data(own_folders)).val.decode(SQUARE)


def test_folders__that_do_not_fit_are_named(own_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"data\.train=FOLDER"):
        find_splits(data())
    with pytest.raises(TrainError, match=r"no folder .*absent"):
        find_splits(data(own_folders, val=str(tmp_path / "absent")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainError, match="holds no photos"):
        find_splits(data(own_folders, train=str(tmp_path / "empty")))
    shutil.rmtree(own_folders / "val" / "green")
    with pytest.raises(TrainError, match="different class folders: green"):
        find_splits(data(own_folders))


def test_digits__are_split_once_and_for_all() -> None:
    one, two = (find_splits(recipe.Data(source="digits", name="d", head="d")) for _ in range(2))
    assert (len(one.train), len(one.val)) == (1437, 360)
    assert np.bincount(one.val.labels).min() >= 35
    for split in ("train", "val"):
        assert all(map(np.array_equal, getattr(one, split).sources, getattr(two, split).sources))


def test_imagenet_names__fit_its_1000_outputs() -> None:
    labels = imagenet_labels()
    assert len(set(labels)) == 1000
    assert labels[0] == "tench"
    assert class_labels(("n01440764", "my cats")) == ["tench", "my cats"]
    assert imagenet_indices(("n01440764", "n03888257")).tolist() == [0, 701]
    assert imagenet_indices(("n01440764", "my cats")) is None


@given(st.integers(1, 50), st.integers(0, 9), st.integers(0, 9))
def test_sampler__is_a_permutation_that_depends_on_seed_and_epoch_only(size: int, seed: int, epoch: int) -> None:
    fresh, used = EpochSampler(size, seed), EpochSampler(size, seed)
    list(used)
    fresh.set_epoch(epoch)
    used.set_epoch(epoch)
    torch.rand(3)
    assert list(fresh) == list(used)
    assert sorted(fresh) == list(range(size)) == list(range(len(fresh)))


def test_sampler__differs_between_epochs_and_seeds() -> None:
    orders = []
    for seed in range(3):
        sampler = EpochSampler(40, seed)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            orders.append(tuple(sampler))
    assert len(set(orders)) == 9


def test_augmenter__depends_on_seed_and_step_only(pixels: torch.Tensor) -> None:
    spec = recipe.Augment()
    one, two = Augmenter(spec, 32, seed=1), Augmenter(spec, 32, seed=1)
    one(pixels, 4)
    torch.rand(5)
    assert torch.equal(one(pixels, 7), two(pixels, 7))
    assert not torch.equal(one(pixels, 7), one(pixels, 8))
    assert not torch.equal(one(pixels, 7), Augmenter(spec, 32, seed=2)(pixels, 7))


def test_augmenter__leaves_the_global_random_state_alone(pixels: torch.Tensor) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    Augmenter(recipe.Augment(), 32, seed=1)(pixels, 0)
    assert torch.equal(torch.rand(2), expected)


@settings(deadline=None, max_examples=25)
@given(size=st.sampled_from([16, 32, 48]), step=st.integers(0, 10**6), count=st.integers(1, 19), mix=st.booleans())
def test_augmenter__gives_floats_from_0_to_1(size: int, step: int, count: int, mix: bool) -> None:
    pixels = torch.randint(0, 256, (count, 40, 40, 3), generator=torch.Generator().manual_seed(step)).byte()
    images = Augmenter(recipe.Augment(mix=mix), size, seed=0)(pixels, step)
    assert images.shape == (count, 3, size, size)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1


def test_augmenter__mixes_the_batch_with_itself_by_one_share(pixels: torch.Tensor) -> None:
    plain = msgspec.structs.replace(recipe.Augment(), jitter=0, grey=0, blur=0, mix=False)
    apart = Augmenter(plain, 32, seed=0)(pixels, 3)
    mixed = Augmenter(msgspec.structs.replace(plain, mix=True), 32, seed=0)(pixels, 3)
    for row in mixed:
        fits = [  # which pair and share explains it: mixed = other + share * (own - other)
            torch.allclose(row, other + share * (own - other), atol=1e-4)
            for own in apart
            for other in apart
            if not torch.equal(own, other)
            for share in [((row - other) * (own - other)).sum() / (own - other).square().sum()]
        ] + [torch.allclose(row, own, atol=1e-5) for own in apart]
        assert any(fits)
    assert not torch.allclose(mixed, apart, atol=1e-3)
