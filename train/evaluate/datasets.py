"""The photos to evaluate on: labeled pairs of TRAIN and TEST, listed retrieval, photos of ImageNet's classes."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from train.data.labels import imagenet_indices
from train.data.sources import find_photos
from train.data.splits import Split, by_name, labelled_folder, unlabelled
from train.errors import TrainError
from train.evaluate.corruptions import STRENGTHS, Corrupted


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

    answers: for each query its right positions in the gallery, for photos without labels; None: those of its class.
    retrieval: whether it is measured.
    """

    train: Dataset
    test: Dataset
    answers: list[list[int]] | None = None
    retrieval: bool = True

    def same_photos(self) -> Tensor | None:
        """For each test photo its position among the training photos, -1 for none; None when no file is in both."""
        train, test = (
            [Path(str(source)).resolve() for source in part.photos.sources] for part in (self.train, self.test)
        )
        at = {path: index for index, path in enumerate(train)}
        same = torch.tensor([at.get(path, -1) for path in test])
        return same if (same >= 0).any() else None

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
    name, paths = words[0], [Path(word) for word in words[-2:]]
    if len(words) == 1:
        tests = [paths[0] / part for part in ("val", "test") if (paths[0] / part).is_dir()]
        name, paths = paths[0].resolve().name, [paths[0] / "train", *tests[:1]]
    elif len(words) == 2:
        name = paths[0].resolve().parent.name
    if len(words) > 3 or len(paths) != 2:
        raise TrainError(f"no photos in {' '.join(words)!r}: give [NAME] TRAIN TEST, or a folder with train/ and val/")
    parts = [_list_file(path) if path.is_file() else labelled_folder(path) for path in paths]
    classes = tuple(sorted({each for part in parts for each in part.classes}))
    train, test = (Split(part.sources, np.searchsorted(classes, part.classes)[part.labels], classes) for part in parts)
    split = paths[1].stem if paths[1].is_file() else paths[1].name
    return Task(Dataset(name, "train", train), Dataset(name, split, test))


def hold_out(task: Task, pattern: str | None) -> tuple[Task, list[Dataset]]:
    """The task, and the photos of both sides whose file names match, where its classes are ImageNet's.

    As in training (`find_splits`), they are left out of TRAIN, and stay in TEST. Raises TrainError.
    """
    train, ours = by_name(task.train.photos, pattern)
    _, theirs = by_name(task.test.photos, pattern)
    if not len(train):
        raise TrainError(f"{task.test.name}: all photos of TRAIN match {pattern!r}; choose another --held-out")
    indices, sources = imagenet_indices(train.classes), ours.sources + theirs.sources
    held = []
    if indices is not None and sources:
        labels = indices[np.concatenate([ours.labels, theirs.labels])]
        held = [Dataset(task.test.name, "held-out", Split(sources, labels, train.classes), logits=True)]
    return replace(task, train=replace(task.train, photos=train)), held


def open_world(listed: Path, but: Path) -> tuple[Dataset, list[Dataset]]:
    """Photos of a CSV with `file` (in `photos` beside it) and `class_index` (of ImageNet's 1000); and corrupted ones.

    Evaluation only: nothing is ever chosen on them. but: a CSV with the `file` of photos that are shown elsewhere (the
    demo's), and left out; it need not be there. Raises TrainError.
    """
    try:
        rows = list(csv.DictReader(listed.read_text().splitlines()))
        shown = {row["file"] for row in csv.DictReader(but.read_text().splitlines())} if but.is_file() else set[str]()
        rows = [row for row in rows if row["file"] not in shown]
        photos = [listed.parent / "photos" / row["file"] for row in rows]
        labels = np.array([int(row["class_index"]) for row in rows], np.int64)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise TrainError(f"{listed} is not a CSV with the columns file and class_index: {error!r}") from error
    name = listed.resolve().parent.name
    corrupted = [
        Dataset(f"{name}, corrupted", f"{kind} {strength:g}", Split([*sources], labels, ()), logits=True)
        for kind, strengths in STRENGTHS.items()
        for strength in strengths
        if (sources := [Corrupted(photo, kind, strength) for photo in photos])
    ]
    return Dataset(name, "test", Split([*photos], labels, ()), logits=True), corrupted


def open_listed(name: str, gallery: Path, queries: Path, truth: Path) -> Task:
    """Two folders of photos, ordered by name; in a JSON file, for each query its right positions. Raises TrainError.

    truth: `folders` where the photos in the folder of the query's name are right.
    """
    train, test = (Dataset(name, folder.name, unlabelled(find_photos(folder))) for folder in (gallery, queries))
    if truth == Path("folders"):
        places, asked = ([Path(str(source)).parent.name for source in part.photos.sources] for part in (train, test))
        return Task(train, test, [[at for at, place in enumerate(places) if place == query] for query in asked])
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
    photos = find_photos(folder)
    labels = imagenet_indices(tuple(photo.name.partition("_")[0] for photo in photos))
    if labels is None:
        raise TrainError(f"{folder}: the photos of a sample are named by their ImageNet class, n01440764_tench.JPEG")
    return Dataset(folder.resolve().name, "one per class", Split(list(photos), labels, ()), logits=True)


def _list_file(path: Path) -> Split:
    """`path, label` lines (further columns are ignored), paths relative to the file."""
    try:
        rows = list(csv.reader(path.read_text().splitlines(), skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainError(f"cannot read the list {path}: {error}") from error
    if short := [number for number, row in enumerate(rows, 1) if len(row) < 2]:
        raise TrainError(f"{path.name}, line {short[0]}: expected `path, label`, got {','.join(rows[short[0] - 1])!r}")
    if not rows:
        raise TrainError(f"{path} lists no photos")
    for number, row in enumerate(rows, 1):
        if not (path.parent / row[0]).is_file():
            raise TrainError(f"{path.name}, line {number}: there is no photo {path.parent / row[0]}")
    classes, labels = np.unique([row[1] for row in rows], return_inverse=True)
    return Split([path.parent / row[0] for row in rows], labels, tuple(map(str, classes)))
