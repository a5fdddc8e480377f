"""The photos that the files of a zoo are judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from train.data import Split, imagenet_indices
from train.errors import TrainError
from train.evaluate.asymmetric import read_answers
from train.evaluate.plan import PhotoSets, same_photos
from train.unlabelled import find_photos

SAMPLE_SPLIT = "one per class"


@dataclass(frozen=True)
class Pack:
    """Photos that are embedded together. logits: the teacher's 1000 classes are asked for; labels are among them."""

    name: str
    split: str
    photos: Split
    logits: bool = False

    @property
    def digest(self) -> str:
        """Which photos these are: names, sizes in bytes and labels, in order."""
        digest = hashlib.sha256(f"{self.name}\n{self.split}\n{self.photos.classes}\n{self.logits}\n".encode())
        for source, label in zip(self.photos.sources, self.photos.labels, strict=True):
            size = source.stat().st_size if isinstance(source, Path) else ""
            digest.update(f"{getattr(source, 'name', source)} {size} {label}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Labelled:
    """A probe and k-NN learn from `train` and are judged on `test`; retrieval, where asked for, searches in `train`."""

    train: Pack
    test: Pack
    retrieval: bool

    @property
    def packs(self) -> list[Pack]:
        """Both."""
        return [self.train, self.test]


@dataclass(frozen=True)
class Listed:
    """For each of `queries`, the positions in `gallery` that are right answers."""

    gallery: Pack
    queries: Pack
    answers: list[list[int]]

    @property
    def packs(self) -> list[Pack]:
        """Both."""
        return [self.gallery, self.queries]


@dataclass(frozen=True)
class Survey:
    """Everything that is asked of a file. imagenet: photos with labels among the teacher's 1000 classes."""

    labelled: Sequence[Labelled]
    listed: Sequence[Listed]
    imagenet: Sequence[Pack]

    @property
    def packs(self) -> list[Pack]:
        """All photos, each pack once."""
        return [
            *(pack for part in self.labelled for pack in part.packs),
            *(pack for part in self.listed for pack in part.packs),
            *self.imagenet,
        ]

    @property
    def digest(self) -> str:
        """Changes with the photos, their labels and the right answers."""
        digest = hashlib.sha256("\n".join(pack.digest for pack in self.packs).encode())
        digest.update(repr([part.retrieval for part in self.labelled]).encode())
        digest.update(repr([part.answers for part in self.listed]).encode())
        return digest.hexdigest()


def open_labelled(words: Sequence[str], held_out: str | None, retrieval: Sequence[str]) -> tuple[Labelled, Pack | None]:
    """A data set from `[NAME] TRAIN TEST`, and its held-out photos of both sides where its classes are ImageNet's.

    As in training (`train.data.find_splits`), held-out photos are left out of TRAIN, and stay in TEST. Raises
    TrainError, also for photos that are in both.
    """
    sets = PhotoSets.from_words(words)
    if (same := same_photos(sets)) is not None:
        raise TrainError(
            f"{sets.name}: {int((same >= 0).sum())} photos are in TRAIN and in TEST, and would be judged on "
            "themselves; take them out of one"
        )
    train, held = sets.train, None
    if held_out is not None:
        out = [_matching(split, held_out) for split in (sets.train, sets.test)]
        train = train.take(np.flatnonzero(~out[0]))
        indices = imagenet_indices(sets.train.classes)
        parts = [split.take(np.flatnonzero(match)) for split, match in zip((sets.train, sets.test), out, strict=True)]
        if indices is not None and any(map(len, parts)):
            labels = indices[np.concatenate([part.labels for part in parts])]
            sources = [source for part in parts for source in part.sources]
            held = Pack(sets.name, "held-out", Split(sources, labels, sets.train.classes), logits=True)
    if not len(train):
        raise TrainError(f"{sets.name}: no photo of TRAIN is left, all match {held_out!r}; choose another --held-out")
    return (
        Labelled(Pack(sets.name, "train", train), Pack(sets.name, sets.test_split, sets.test), sets.name in retrieval),
        held,
    )


def open_listed(name: str, gallery: Path, queries: Path, truth: Path) -> Listed:
    """Two folders of photos, in the order of their names, and a JSON file of right answers. Raises TrainError."""
    packs = []
    for folder in (gallery, queries):
        found = find_photos(folder)
        packs.append(Pack(name, folder.name, Split(list(found), np.full(len(found), -1, np.int64), ())))
    answers = read_answers(truth, *(len(pack.photos) for pack in packs))
    return Listed(packs[0], packs[1], answers)


def open_sample(name: str, folder: Path) -> Pack:
    """Photos whose file names begin with the wnid of their class: `n01440764_tench.JPEG`. Raises TrainError."""
    sources = [photo for photo in find_photos(folder) if isinstance(photo, Path)]
    wnids = tuple(sorted({photo.name.partition("_")[0] for photo in sources}))
    indices = imagenet_indices(wnids)
    if indices is None or not sources:
        raise TrainError(f"{folder}: the photos of a sample are named by their ImageNet class, n01440764_tench.JPEG")
    at = dict(zip(wnids, indices, strict=True))
    labels = np.array([at[photo.name.partition("_")[0]] for photo in sources], np.int64)
    return Pack(name, SAMPLE_SPLIT, Split(list(sources), labels, wnids), logits=True)


def _matching(split: Split, pattern: str) -> np.ndarray:
    return np.array([fnmatch(getattr(source, "name", ""), pattern) for source in split.sources], bool)
