"""The photos that a recipe trains on and is evaluated on: folders of classes, and sets without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train import recipe
from train.data.sources import Source, find_photos, photos_below
from train.errors import TrainError


@dataclass(frozen=True)
class Split:
    """Where the photos of a split are: sources[i] has label labels[i], an index into `classes`, or -1 for none."""

    sources: list[Source]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, chosen: npt.NDArray[np.intp]) -> Split:
        """The photos at these positions."""
        return Split([self.sources[i] for i in chosen], self.labels[chosen], self.classes)

    def share(self, host: int, hosts: int) -> Split:
        """The photos `host`, `host + hosts`, ... of `hosts` equal shares; what is left over is in none."""
        return self.take(np.arange(host, len(self) // hosts * hosts, hosts))


@dataclass(frozen=True)
class Splits:
    """train: for distillation and the probe. val: for reported figures. held_out: photos that no training sees (may be
    empty).

    more: sets without labels that are distilled on too, and their weights. aside: photos that `data.holdout` keeps
    aside, of train and of all further sets (may be empty); then val is those of train.
    """

    train: Split
    val: Split
    held_out: Split
    more: list[tuple[Split, float]]
    aside: Split


def find_splits(data: recipe.Data) -> Splits:
    """List the photos of a recipe, without decoding them. Raises TrainError for a missing or empty folder."""
    if data.source == "digits":
        return _digits()
    train = _folder(data, "train")
    val = train.take(np.empty(0, np.intp)) if data.holdout else _folder(data, "val")
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise TrainError(f"data.train and data.val have different class folders: {', '.join(odd[:5])}")
    train, held_train = by_name(train, data.held_out)
    _, held_val = by_name(val, data.held_out)
    more = [(by_name(unlabelled(find_photos(Path(each.path))), data.held_out)[0], each.weight) for each in data.further]
    aside: list[Split] = []
    if data.holdout:
        train, val = _every(train, data.holdout)
        parted = [(_every(split, data.holdout), weight) for split, weight in more]
        more, aside = [(kept, weight) for (kept, _), weight in parted], [val, *(split for (_, split), _ in parted)]
    held_labels = np.concatenate([held_train.labels, held_val.labels])
    held_out = Split(held_train.sources + held_val.sources, held_labels, train.classes)
    return Splits(train, val, held_out, more, unlabelled([source for split in aside for source in split.sources]))


def _folder(data: recipe.Data, key: str) -> Split:
    folder = getattr(data, key)
    if folder is None:
        raise TrainError(f"this recipe needs photos: give data.{key}=FOLDER, with a folder per class in it")
    return labelled_folder(Path(folder), key)


def by_name(split: Split, pattern: str | None) -> tuple[Split, Split]:
    """The photos whose file names do not match `pattern`, and those that do."""
    names = [getattr(source, "name", "") for source in split.sources]
    matches = np.array([pattern is not None and fnmatch(name, pattern) for name in names], bool)
    return split.take(np.flatnonzero(~matches)), split.take(np.flatnonzero(matches))


def _every(split: Split, nth: int) -> tuple[Split, Split]:
    """The photos but for every n-th, and those; in a random order that is always the same."""
    order = np.random.default_rng(0).permutation(len(split))
    return split.take(np.sort(order[len(order) // nth :])), split.take(np.sort(order[: len(order) // nth]))


def unlabelled(sources: Sequence[Source]) -> Split:
    """Photos without labels."""
    return Split(list(sources), np.full(len(sources), -1, np.int64), ())


def labelled_folder(folder: Path, key: str = "train") -> Split:
    """The photos of a folder that has a folder per class. `key`: for the error. Raises TrainError."""
    if not folder.is_dir():
        raise TrainError(f"there is no folder {folder}; give data.{key}=FOLDER, with a folder per class in it")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    sources: list[Source] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = photos_below(folder / name)
        sources += found
        labels += [label] * len(found)
    if not sources:
        raise TrainError(f"{folder} holds no photos; data.{key} expects a folder per class, with photos in each")
    return Split(sources, np.array(labels, np.int64), classes)


def _digits() -> Splits:
    """scikit-learn's 1797 digits; a fifth of each class, drawn with a fixed seed, is val."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    grey = (bunch.images / 16 * 255).round().astype(np.uint8)  # (N, 8, 8)
    sources: list[Source] = list(grey)
    labels = bunch.target.astype(np.int64)
    classes = tuple(str(digit) for digit in range(10))
    train, val = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    every = Split(sources, labels, classes)
    none = every.take(np.empty(0, np.intp))
    return Splits(every.take(train), every.take(val), none, [], none)
