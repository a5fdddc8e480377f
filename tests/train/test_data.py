"""Photos: where they are, which are left out, and what their classes are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from train import recipe
from train.data.labels import class_labels, imagenet_indices, imagenet_labels
from train.data.splits import Split, find_splits
from train.errors import TrainError


def data(root: Path | None = None, **values: object) -> recipe.Data:
    folders = {} if root is None else {"train": str(root / "train"), "val": str(root / "val")}
    return recipe.Data(**{"name": "drawn", "head": "colours", **folders, **values})


def names(split: Split) -> set[str]:
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


def test_holdout__keeps_photos_of_every_set_aside_always_the_same(photo_folders: Path) -> None:
    more = [str(photo_folders / "val" / "red"), str(photo_folders / "val" / "blue")]
    folders = {"train": str(photo_folders / "train"), "more": more}
    one, two = (find_splits(data(**folders, holdout=3, held_out="away_*")) for _ in range(2))
    assert (len(one.train), len(one.val), [len(split) for split, _ in one.more]) == (18, 9, [3, 3])
    assert len(one.aside) == 9 + 1 + 1
    assert len(one.held_out) == 9
    learned = [source for split in (one.train, *(split for split, _ in one.more)) for source in split.sources]
    assert not set(learned) & set(one.aside.sources)
    assert not [source for source in (*learned, *one.aside.sources) if source.name.startswith("away")]
    assert one.aside.sources == two.aside.sources
    owners = [one.val.classes[label] for label in one.val.labels]
    assert owners == [path.parent.name for path in one.val.sources]


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
    assert class_labels(("n01440764", "Paris, TX", "Paris, FR")) == ["tench", "Paris, TX", "Paris, FR"]
    assert imagenet_indices(("n01440764", "n03888257")).tolist() == [0, 701]
    assert imagenet_indices(("n01440764", "my cats")) is None
