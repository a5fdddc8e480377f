"""Which photos a recipe learns from and is judged on: folders of classes, and sets without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train import recipe
from train.data.sources import EXTENSIONS, Source, find_photos
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


@dataclass(frozen=True)
class Splits:
    """train: distillation and probe. val: reported. held_out: photos that no training sees (may be empty)."""

    train: Split
    val: Split
    held_out: Split


def find_splits(data: recipe.Data) -> Splits:
    """List the photos of a recipe, without decoding them. Raises TrainError for a missing or empty folder."""
    if data.source == "digits":
        return _digits()
    folders: dict[str, Split] = {}
    for key in ("train", "val"):
        folder = getattr(data, key)
        if folder is None:
            raise TrainError(f"this recipe needs photos: give data.{key}=FOLDER, with a folder per class in it")
        folders[key] = labelled_folder(Path(folder), key)
    train, val = folders["train"], folders["val"]
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise TrainError(f"data.train and data.val have different class folders: {', '.join(odd[:5])}")
    kept = {"train": train, "val": val}
    out: list[Split] = []
    if data.held_out:
        matches = {
            key: np.array([fnmatch(source.name, data.held_out) for source in split.sources], bool)
            for key, split in kept.items()
        }
        out = [split.take(np.flatnonzero(matches[key])) for key, split in kept.items()]
        kept["train"] = train.take(np.flatnonzero(~matches["train"]))
    held_out = Split(
        [source for split in out for source in split.sources],
        np.concatenate([split.labels for split in out]) if out else np.empty(0, np.int64),
        train.classes,
    )
    return Splits(kept["train"], kept["val"], held_out)


def find_more(data: recipe.Data) -> list[tuple[Split, float]]:
    """The sets of `data.more` and their weights; held-out photos are left out. Raises TrainError."""
    sets = []
    for spec in data.further:
        found = find_photos(Path(spec.path))
        if data.held_out:
            found = [photo for photo in found if not fnmatch(photo.name, data.held_out)]
        sets.append((unlabelled(found), spec.weight))
    return sets


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
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in EXTENSIONS)
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
    return Splits(every.take(train), every.take(val), every.take(np.empty(0, np.intp)))
