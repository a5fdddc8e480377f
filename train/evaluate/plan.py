"""Which protocols on which photos, and the figures they give."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leap_zoo.card import Metric, Preprocessing
from leap_zoo.errors import ImageError
from leap_zoo.preprocess import open_image, to_tensor
from train.data.splits import Split, labelled_folder
from train.data.store import Photos, Shown, in_memory
from train.errors import TrainError
from train.evaluate import revisited, scores
from train.evaluate.features import Subject, extract
from train.evaluate.few_shot import few_shot
from train.evaluate.knn import knn
from train.evaluate.own_classes import own_classes
from train.evaluate.probe import linear_probe
from train.evaluate.retrieval import retrieve

Protocol = Literal["probe", "knn", "retrieval", "few-shot", "fit"]
PROTOCOLS: tuple[Protocol, ...] = ("probe", "knn", "retrieval", "few-shot", "fit")
USUAL = PROTOCOLS[:4]  # `fit` takes minutes
NEIGHBOURS, SHOTS, FIT_SHOTS = (10, 20), (1, 5, 10), (1, 2, 5, 10, 20)
MOST_LINES = 10_000_000  # of a list file
WHOLE = 2**20  # no side that a photo could be drafted to


@dataclass(frozen=True)
class PhotoSets:
    """Labelled photos to learn from (or to search in) and labelled photos to be judged on; classes agree by name."""

    name: str
    train: Split
    test: Split
    test_split: str
    _decoded: dict[str, tuple[Photos, Photos]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, name: str, train: Path, test: Path) -> PhotoSets:
        """Each a folder with a folder per class, or a text file of `path, label` lines. Raises TrainError."""
        parts = [_list_file(path) if path.is_file() else labelled_folder(path) for path in (train, test)]
        classes = tuple(sorted({name for part in parts for name in part.classes}))
        at = {name: index for index, name in enumerate(classes)}
        ours = [np.array([at[name] for name in part.classes], np.int64) for part in parts]
        both = [Split(part.sources, own[part.labels], classes) for part, own in zip(parts, ours, strict=True)]
        return cls(name, *both, test.stem if test.is_file() else test.name)

    @classmethod
    def from_words(cls, words: Sequence[str]) -> PhotoSets:
        """NAME TRAIN TEST; TRAIN TEST; or FOLDER, which holds `train` and `val` or `test`. Raises TrainError."""
        if len(words) == 3:
            return cls.open(words[0], Path(words[1]), Path(words[2]))
        if len(words) == 2:
            return cls.open(Path(words[0]).resolve().parent.name, Path(words[0]), Path(words[1]))
        folder = Path(words[0])
        if len(words) == 1 and (folder / "train").is_dir():
            for test in ("val", "test"):
                if (folder / test).is_dir():
                    return cls.open(folder.resolve().name, folder / "train", folder / test)
        raise TrainError(
            f"no photos to evaluate on in {' '.join(words)!r}: give [NAME] TRAIN TEST, or a folder that holds "
            "`train` and `val` or `test`"
        )

    def decode(self, spec: Preprocessing) -> tuple[Photos, Photos]:
        """Both as the deployed model sees them, decoded once per size and kept."""
        key = repr(spec)
        if key not in self._decoded:
            self._decoded[key] = (
                in_memory(self.train, Shown(spec), f"{self.name}, train"),
                in_memory(self.test, Shown(spec), f"{self.name}, {self.test_split}"),
            )
        return self._decoded[key]


@dataclass(frozen=True)
class Plan:
    """`sets` are judged by `protocols`; `revisited` holds (folder of photos, ground truth JSON)."""

    sets: Sequence[PhotoSets] = ()
    protocols: Sequence[Protocol] = USUAL
    revisited: Sequence[tuple[Path, Path]] = ()


def evaluate(subject: Subject, plan: Plan, *, seed: int = 0) -> list[Metric]:
    """Every figure of a plan, named `protocol, features`; shares in 0..1, 95 % intervals. Raises TrainError.

    Nothing is chosen on the photos that are reported: the probe's rate is chosen on a tenth of its training photos.
    """
    metrics: list[Metric] = []
    for sets in plan.sets:
        same = same_photos(sets)
        if same is not None and set(plan.protocols) != {"retrieval"}:
            raise TrainError(
                f"{sets.name}: {int((same >= 0).sum())} photos are in TRAIN and in TEST, and would be judged on "
                "themselves; take them out of one, or ask for --protocols retrieval, where none is its own answer"
            )
        train, test = sets.decode(subject.preprocessing)
        if same is not None and (train.skipped or test.skipped):
            raise TrainError(f"{sets.name}: take the broken photos out, or a photo cannot be told from its own copy")
        ours = extract(subject.features, train.pixels, f"{sets.name}, train")
        theirs = extract(subject.features, test.pixels, f"{sets.name}, {sets.test_split}")
        labels = torch.from_numpy(train.labels), torch.from_numpy(test.labels)
        for kind in ours:
            metrics += _judge(sets, kind, plan.protocols, ours[kind], theirs[kind], labels, same, seed)
    for folder, truth in plan.revisited:
        metrics += _revisit(subject, folder, truth)
    return metrics


def _judge(
    sets: PhotoSets,
    kind: str,
    protocols: Sequence[Protocol],
    train: Tensor,
    test: Tensor,
    labels: tuple[Tensor, Tensor],
    same: Tensor | None,
    seed: int,
) -> list[Metric]:
    where = sets.name, sets.test_split
    metrics: list[Metric] = []
    if "probe" in protocols and kind != "teacher":  # a linear map of `cls`: its probe is that of `cls`
        probe = linear_probe(train, labels[0], len(sets.train.classes), seed=seed)
        metrics.append(scores.share(f"linear probe, {kind}", *where, scores.accuracy(probe(test).argmax(1), labels[1])))
    if "knn" in protocols:
        for k in NEIGHBOURS:
            votes = knn(train, labels[0], test, k=k)
            metrics.append(scores.share(f"{k}-NN, {kind}", *where, scores.accuracy(votes, labels[1])))
    if "retrieval" in protocols:
        found = retrieve(train, labels[0], test, labels[1], same=same)
        if not len(found.average_precision):
            raise TrainError(f"{sets.name}: no query has a photo of its class in the gallery")
        metrics.append(scores.mean(f"retrieval mAP, {kind}", *where, found.average_precision))
        first = scores.Score(found.recall_at_1.mean().item(), len(found.recall_at_1))
        metrics.append(scores.share(f"recall@1, {kind}", *where, first))
    if "few-shot" in protocols:
        for shots in SHOTS:
            accuracies = few_shot(train, labels[0], test, labels[1], shots=shots, seed=seed)
            # The interval is over draws; what other test photos would give is in none of them.
            figure = scores.mean(f"{shots}-shot, mean of {len(accuracies)} draws, {kind}", *where, accuracies)
            metrics.append(msgspec.structs.replace(figure, n=len(test)))
    if "fit" in protocols:
        for shots in FIT_SHOTS:
            found = own_classes(train, labels[0], test, labels[1], shots=shots, seed=seed)
            what = f"fit, {shots} per class"
            metrics.append(scores.mean(f"{what}, accuracy, {kind}", *where, found.accuracy))
            if not found.validated.isnan().any():
                held = scores.Score(found.held.mean().item(), len(found.held))
                metrics.append(scores.mean(f"{what}, cross-validated, {kind}", *where, found.validated))
                metrics.append(scores.share(f"{what}, interval holds, {kind}", *where, held))
    return metrics


def _revisit(subject: Subject, folder: Path, path: Path) -> list[Metric]:
    """Queries are cropped to their box, then prepared like any photo."""
    truth = revisited.read_ground_truth(path)
    size = subject.preprocessing
    try:
        gallery = np.stack([to_tensor(_photo(folder, name), size) for name in truth.gallery])
        queries = np.stack([to_tensor(_cropped(_photo(folder, query.name), query), size) for query in truth.queries])
    except ImageError as error:
        raise TrainError(f"{folder}: {error}") from error
    ours, asked = extract(subject.features, gallery, "gallery"), extract(subject.features, queries, "queries")
    metrics = []
    for kind in ours:
        for protocol in revisited.PROTOCOLS:
            ranking = revisited.rank(ours[kind], asked[kind], truth, protocol)
            if not len(ranking.average_precision):
                continue
            where = f"{path.stem}, {protocol.name}", "queries"
            metrics.append(scores.mean(f"revisited mAP, {kind}", *where, ranking.average_precision))
            for at, cut in enumerate(revisited.CUTS):
                metrics.append(scores.mean(f"revisited mP@{cut}, {kind}", *where, ranking.precision[:, at]))
    return metrics


def _photo(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.jpg"):
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise TrainError(f"{folder} holds no photo {name} (nor {name}.jpg), which the ground truth names")


def _cropped(path: Path, query: revisited.Query) -> Image.Image:
    photo = open_image(path, draft_side=WHOLE)  # a draft of a large JPEG has other pixels than the box
    left, top = (max(0, round(value)) for value in query.box[:2])
    right, bottom = (min(side, round(value)) for side, value in zip(photo.size, query.box[2:], strict=True))
    if right <= left or bottom <= top:
        raise TrainError(
            f"the box of query {query.name} holds nothing of its {photo.width} x {photo.height} photo: it is "
            "x1, y1, x2, y2 in pixels"
        )
    return photo.crop((left, top, right, bottom))


def _list_file(path: Path) -> Split:
    """`path, label` lines (further columns are ignored), paths relative to the file."""
    sources, names = [], []
    try:
        with path.open(newline="") as file:
            for number, row in enumerate(csv.reader(file, skipinitialspace=True), 1):
                if len(row) < 2 or number > MOST_LINES:
                    raise TrainError(f"{path.name}, line {number}: expected `path, label`, got {','.join(row)[:80]!r}")
                sources.append(path.parent / row[0])
                names.append(row[1])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainError(f"cannot read the list {path}: {error}") from error
    if not sources:
        raise TrainError(f"{path} lists no photos")
    classes = tuple(sorted(set(names)))
    at = {name: index for index, name in enumerate(classes)}
    return Split(list(sources), np.array([at[name] for name in names], np.int64), classes)


def same_photos(sets: PhotoSets) -> Tensor | None:
    """For each test photo, its position among the training photos where it is the same file."""
    if not any(isinstance(source, Path) for source in sets.train.sources):
        return None
    at = {source.resolve(): index for index, source in enumerate(sets.train.sources) if isinstance(source, Path)}
    own = [at.get(source.resolve(), -1) if isinstance(source, Path) else -1 for source in sets.test.sources]
    return torch.tensor(own) if max(own, default=-1) >= 0 else None
