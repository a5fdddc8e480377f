"""The photos to measure on: labelled pairs of TRAIN and TEST, listed retrieval, photos of ImageNet's classes."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from train.data.labels import imagenet_indices
from train.data.sources import Source, find_photos
from train.data.splits import Split, labelled_folder, unlabelled
from train.errors import TrainError


@dataclass(frozen=True)
class Dataset:
    """Photos that are embedded together. logits: labels are among ImageNet's 1000, and models are asked for these."""

    name: str
    split: str
    photos: Split
    logits: bool = False

    @cached_property
    def digest(self) -> str:
        """Of the photos' names, sizes in bytes and labels, in order."""
        digest = hashlib.sha256(f"{self.name}\n{self.split}\n{self.photos.classes}\n{self.logits}\n".encode())
        for source, label in zip(self.photos.sources, self.photos.labels, strict=True):
            size = source.stat().st_size if isinstance(source, Path) else ""
            digest.update(f"{getattr(source, 'name', source)} {size} {label}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Task:
    """A probe and k-NN learn from `train` and are tested on `test`; in retrieval they are gallery and queries.

    Labels of both are indices into the same classes. answers: for each query the positions in the gallery that are
    right, for photos without labels; None: those of its class. retrieval: whether it is measured.
    """

    train: Dataset
    test: Dataset
    answers: list[list[int]] | None = None
    retrieval: bool = True

    def same_photos(self) -> Tensor | None:
        """For each test photo its position among the training photos where it is the same file, else -1.

        None when no file is in both.
        """
        train, test = self.train.photos.sources, self.test.photos.sources
        at = {source.resolve(): index for index, source in enumerate(train) if isinstance(source, Path)}
        own = [at.get(source.resolve(), -1) if isinstance(source, Path) else -1 for source in test]
        return torch.tensor(own) if max(own, default=-1) >= 0 else None

    def check_disjoint(self, protocols: Sequence[str]) -> None:
        """Refuse photos in both TRAIN and TEST, unless retrieval is all that is measured. Raises TrainError."""
        same = self.same_photos()
        if same is not None and set(protocols) != {"retrieval"}:
            raise TrainError(
                f"{self.test.name}: {int((same >= 0).sum())} photos are in TRAIN and in TEST: take them out of one, or "
                "ask for --protocols retrieval, where a photo is not an answer to itself"
            )


def open_pair(words: Sequence[str]) -> Task:
    """NAME TRAIN TEST; TRAIN TEST; or FOLDER, which has `train` and `val` or `test` in it.

    TRAIN and TEST are folders with a folder per class, or text files of `path, label` lines. Raises TrainError.
    """
    if len(words) == 1:
        folder = Path(words[0])
        tests = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
        words = [folder.resolve().name, *map(str, (folder / "train", *tests[:1]))] if tests else words
    elif len(words) == 2:
        words = [Path(words[0]).resolve().parent.name, *words]
    if len(words) != 3:
        raise TrainError(f"no photos in {' '.join(words)!r}: give [NAME] TRAIN TEST, or a folder with train/ and val/")
    paths = [Path(word) for word in words[1:]]
    parts = [_list_file(path) if path.is_file() else labelled_folder(path) for path in paths]
    classes = tuple(sorted({name for part in parts for name in part.classes}))
    ours = [np.array([classes.index(name) for name in part.classes], np.int64) for part in parts]
    train, test = (Split(part.sources, own[part.labels], classes) for part, own in zip(parts, ours, strict=True))
    split = paths[1].stem if paths[1].is_file() else paths[1].name
    return Task(Dataset(words[0], "train", train), Dataset(words[0], split, test))


def hold_out(task: Task, pattern: str | None) -> tuple[Task, list[Dataset]]:
    """The task, and the photos of both sides whose file names match, where its classes are ImageNet's.

    As in training (`find_splits`), they are left out of TRAIN, and stay in TEST. Raises TrainError.
    """
    if pattern is None:
        return task, []
    train, test = task.train.photos, task.test.photos
    ours, theirs = (
        np.array([fnmatch(getattr(source, "name", ""), pattern) for source in photos.sources], bool)
        for photos in (train, test)
    )
    if ours.all():
        raise TrainError(f"{task.test.name}: all photos of TRAIN match {pattern!r}; choose another --held-out")
    task = replace(task, train=replace(task.train, photos=train.take(np.flatnonzero(~ours))))
    parts, indices = (
        [train.take(np.flatnonzero(ours)), test.take(np.flatnonzero(theirs))],
        imagenet_indices(train.classes),
    )
    sources = [source for part in parts for source in part.sources]
    if indices is None or not sources:
        return task, []
    labels = indices[np.concatenate([part.labels for part in parts])]
    return task, [Dataset(task.test.name, "held-out", Split(sources, labels, train.classes), logits=True)]


def open_listed(name: str, gallery: Path, queries: Path, truth: Path) -> Task:
    """Two folders of photos, in the order of their names, and a JSON file: for each query, a list of right positions.

    Raises TrainError.
    """
    train, test = (Dataset(name, folder.name, unlabelled(find_photos(folder))) for folder in (gallery, queries))
    try:
        answers = msgspec.json.decode(truth.read_bytes(), type=list[list[int]])
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainError(f"cannot read the right answers {truth}: {error}") from error
    count, most = len(test.photos), len(train.photos)
    if len(answers) != count or any(not 0 <= position < most for row in answers for position in row):
        raise TrainError(f"{truth.name} must have a list for each of the {count} queries, of positions 0 to {most - 1}")
    return Task(train, test, answers)


def open_sample(folder: Path) -> Dataset:
    """Photos whose file names begin with the wnid of their class: `n01440764_tench.JPEG`. Raises TrainError."""
    sources: list[Source] = [photo for photo in find_photos(folder) if isinstance(photo, Path)]
    named = [Path(str(source)).name.partition("_")[0] for source in sources]
    wnids = tuple(sorted(set(named)))
    indices = imagenet_indices(wnids)
    if indices is None or not sources:
        raise TrainError(f"{folder}: the photos of a sample are named by their ImageNet class, n01440764_tench.JPEG")
    labels = indices[np.searchsorted(wnids, named)]
    return Dataset(folder.resolve().name, "one per class", Split(sources, labels, wnids), logits=True)


def _list_file(path: Path) -> Split:
    """`path, label` lines (further columns are ignored), paths relative to the file."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainError(f"cannot read the list {path}: {error}") from error
    if short := [number for number, row in enumerate(rows, 1) if len(row) < 2]:
        raise TrainError(f"{path.name}, line {short[0]}: expected `path, label`, got {','.join(rows[short[0] - 1])!r}")
    if not rows:
        raise TrainError(f"{path} lists no photos")
    classes, labels = np.unique([row[1] for row in rows], return_inverse=True)
    return Split([path.parent / row[0] for row in rows], labels.astype(np.int64), tuple(map(str, classes)))
