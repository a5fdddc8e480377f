"""`fit`: photos of your own classes -> a head, with what it found on the way."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from leap_zoo.errors import ImageError, InvalidArgument, short
from leap_zoo.fitting.discriminant import SHRINKAGE, Judged, judge, learn, rounds
from leap_zoo.folders import Found, answers, list_folder, name_of, photos_below
from leap_zoo.heads import MAX_CLASSES, MAX_LABEL, CrossValidation, CustomHead, HeadCard
from leap_zoo.intervals import wilson
from leap_zoo.model import Model, Space, output_of
from leap_zoo.preprocess import ImageSource, read_photo
from leap_zoo.progress import Progress

ALONE = "the nearest photo, as no class has two; not cross-validated"

LabelledPhotos = str | os.PathLike[str] | Mapping[str, Sequence[ImageSource]]


@dataclass(frozen=True)
class ClassReport:
    """How many photos a class had, and of those that were put aside once, how many were recognised."""

    label: str
    photos: int
    tested: int
    right: int


@dataclass(frozen=True)
class Confusion:
    """`count` photos of class `label` were taken for `taken_for`."""

    label: str
    taken_for: str
    count: int


@dataclass(frozen=True)
class Fit:
    """A head, and what came up while it was fitted.

    classes and confusions (most frequent first) are of the cross-validation. bad: photos and folders that could not be
    read, and why. skipped: how many files and folders were left out, by reason, as in `leap_zoo.folders.Found`.
    notes: what the user should know, one sentence each. learned: sha256 of the files that the head learned from.
    """

    head: CustomHead
    classes: list[ClassReport]
    confusions: list[Confusion]
    learned: frozenset[bytes]
    bad: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Accuracy (0..1) of a head on n labelled photos, 95 % Wilson interval, and what was skipped, as in `Fit`.

    confidence: the mean score of the classes that were said. unsure: the share that was taken for none of the classes;
    None where the head cannot say.
    """

    accuracy: float
    interval: tuple[float, float]
    n: int
    confidence: float
    unsure: float | None
    bad: dict[str, str]
    notes: list[str]
    skipped: dict[str, int]


def fit(
    model: Model, photos: LabelledPhotos, *, space: Space = "student", seed: int = 0, progress: bool = False
) -> Fit:
    """A head for your classes, from one photo per class upwards; the same photos and seed give the same head.

    photos: a folder with a folder per class, or labels with photos. progress: draw bars on stderr, on a terminal.
    The head is a linear discriminant analysis, in closed form. Where classes have two photos or more, each is put aside
    once, to say how accurate the head is, how sure it may be, and from which distance on a photo is of none of the
    classes. Bad photos are skipped and listed.
    Raises InvalidArgument for fewer than two classes, or a class without a readable photo.
    """
    output, given = output_of(space), _labelled(photos)
    if len(given.photos) < 2:
        raise InvalidArgument(f"a head needs two classes, found {len(given.photos)}: give a folder with a folder each")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidArgument(f"seed must be a whole number of at least 0, not {short(seed)}")
    embedded = _embed(model, given, output, progress)
    labels, counts = embedded.labels, np.bincount(embedded.labels, minlength=len(given.photos))
    names = list(given.photos)
    empty = [names[i] for i in np.flatnonzero(counts == 0)]
    if empty:
        raise InvalidArgument(f"no readable photo of {', '.join(map(short, empty[:5]))}: add some, or take it out")
    with Progress(rounds(labels), shown=progress) as bar:
        judged = judge(embedded.vectors, labels, len(names), seed, bar.step)
    weight, bias = learn(embedded.vectors, labels, len(names))
    alone = judged.folds == 0
    card = HeadCard(
        labels=names,
        photos=counts.tolist(),
        kind="prototypes" if alone else "discriminant",
        strength=None if alone else SHRINKAGE,
        scale=judged.scale,
        space=space,
        model=model.card.id,
        revision=model.card.revision,
        artifact=model.artifact.file,
        how=ALONE if alone else f"linear discriminant analysis, shrinkage {SHRINKAGE}",
        solver=f"numpy {np.__version__}",
        seed=seed,
        validation=None if alone else _validation(judged, labels),
        threshold=judged.threshold,
    )
    classes, confusions = _reports(names, counts, labels, judged)
    head = CustomHead(card, weight, bias)
    skipped = dict(given.found.skipped)
    return Fit(head, classes, confusions, embedded.digests, given.found.bad, embedded.notes, skipped)


def score(
    model: Model,
    head: CustomHead,
    photos: LabelledPhotos,
    *,
    learned: frozenset[bytes] = frozenset(),
    progress: bool = False,
) -> Score:
    """How often a head is right on other photos of its classes, given as `fit` takes them.

    learned: as in `Fit`; these files are left out, as a head is always right about them.
    Raises InvalidHead, InvalidArgument.
    """
    head.check(model.card)
    given = _labelled(photos)
    unknown = [label for label in given.photos if label not in head.labels]
    if unknown:
        raise InvalidArgument(f"the head has no class {short(unknown[0])}: name the folders as those it was fitted on")
    embedded = _embed(model, given, head.output, progress, learned)
    if not len(embedded.labels):
        raise InvalidArgument("no readable photo to test on that is new to the head: give a folder per class")
    at = np.array([head.labels.index(label) for label in given.photos])
    logits, n, limit = head.logits(embedded.vectors), len(embedded.labels), head.card.threshold
    right = float((logits.argmax(axis=1) == at[embedded.labels]).mean())
    confidence = float(np.exp(logits.max(axis=1)).mean())
    unsure = None if limit is None else float((head.distances(embedded.vectors) > limit).mean())
    skipped = dict(given.found.skipped)
    return Score(right, wilson(right, n), n, confidence, unsure, given.found.bad, embedded.notes, skipped)


@dataclass(frozen=True)
class _Labelled:
    photos: dict[str, Sequence[ImageSource]]  # by label, sorted
    found: Found  # what was skipped


@dataclass(frozen=True)
class _Embedded:
    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.intp]
    digests: frozenset[bytes]
    notes: list[str]


def _labelled(photos: LabelledPhotos) -> _Labelled:
    if isinstance(photos, Mapping):
        for label, members in photos.items():
            if not (isinstance(label, str) and 0 < len(label) <= MAX_LABEL and isinstance(members, (list, tuple))):
                raise InvalidArgument(f"class {short(label)}: give a label of text, and a list of photos")
        return _Labelled({label: photos[label] for label in sorted(photos)}, Found())
    root, found = os.fsdecode(photos), Found()
    folders, beside = list_folder(root, found, links=True)
    if found.bad:
        raise InvalidArgument(next(iter(found.bad.values())))
    if len(folders) > MAX_CLASSES:
        raise InvalidArgument(f"{len(folders)} classes, a head has at most {MAX_CLASSES}: give another folder")
    if beside:
        found.skipped["photos_beside_classes"] = len(beside)
    classes: dict[str, list[ImageSource]] = {}
    for folder in sorted(folders, key=name_of):
        label, members = name_of(os.path.basename(folder)), photos_below(folder, found)
        if len(label) > MAX_LABEL:
            raise InvalidArgument(f"class {short(label)}: rename the folder to at most {MAX_LABEL} characters")
        if not members:
            raise InvalidArgument(found.bad[name_of(folder)])
        classes.setdefault(label, []).extend(members)
    return _Labelled(dict(classes), found)


def _embed(
    model: Model, given: _Labelled, output: str, progress: bool, learned: frozenset[bytes] = frozenset()
) -> _Embedded:
    kept, notes = _without_copies(given.photos, learned)
    rows, labels = [], []
    with Progress(len(kept), shown=progress) as bar:
        for photo, answer in zip(kept, answers(model, (photo.source for photo in kept), output), strict=True):
            if isinstance(answer, ImageError):
                given.found.refuse(photo.name, str(answer))
            else:
                rows.append(answer)
                labels.append(photo.label)
            bar.step()
    vectors = np.stack(rows) if rows else np.empty((0, 0), np.float32)
    return _Embedded(vectors, np.array(labels, np.intp), frozenset(photo.digest for photo in kept), notes)


@dataclass(frozen=True)
class _Photo:
    label: int
    name: str
    source: ImageSource
    digest: bytes


def _without_copies(
    photos: Mapping[str, Sequence[ImageSource]], learned: frozenset[bytes]
) -> tuple[list[_Photo], list[str]]:
    """The photos that count, and notes on files that are there twice, byte for byte.

    Within a class one is kept: cross-validation would put one aside and learn from its twin. Across classes both are:
    only the user knows which is right.
    """
    labels = list(photos)
    seen: dict[bytes, dict[int, str]] = {}  # digest -> class -> name of its photo
    kept: list[_Photo] = []
    notes, copies, known = [], 0, 0
    for label, members in enumerate(photos.values()):
        for number, source in enumerate(members):
            digest = _digest(source)
            others = seen.setdefault(digest, {})
            if digest in learned or label in others:
                known += digest in learned
                copies += digest not in learned
                continue
            is_path = isinstance(source, (str, os.PathLike))
            name = name_of(str(source)) if is_path else f"{labels[label]}, photo {number} (from 0)"
            if others:
                first, twin = next(iter(others.items()))
                notes.append(f"{name} ({labels[label]}) and {twin} ({labels[first]}) are the same photo in two classes")
            others[label] = name
            kept.append(_Photo(label, name, source, digest))
    if copies:
        notes.append(f"{copies} copies of photos of the same class were left out")
    if known:
        notes.append(f"{known} test photos that the head had learned from were left out")
    return kept, notes


def _digest(photo: ImageSource) -> bytes:
    """sha256 of a photo's file; unlike every other for what is no file, or none that can be read."""
    try:
        data = read_photo(photo) if isinstance(photo, (str, os.PathLike)) else photo
    except ImageError:
        data = None
    return hashlib.sha256(data).digest() if isinstance(data, (bytes, bytearray, memoryview)) else os.urandom(32)


def _validation(judged: Judged, labels: npt.NDArray[np.intp]) -> CrossValidation:
    n, right = len(judged.tested), float((judged.predicted == labels[judged.tested]).mean())
    return CrossValidation(
        accuracy=right,
        interval=wilson(right, n),
        n=n,
        folds=judged.folds,
        confidence=float(judged.confidence.mean()),
        unsure=float(judged.unsure.mean()),
    )


def _reports(
    names: list[str], counts: npt.NDArray[np.intp], labels: npt.NDArray[np.intp], judged: Judged
) -> tuple[list[ClassReport], list[Confusion]]:
    pairs = Counter(zip(labels[judged.tested].tolist(), judged.predicted.tolist(), strict=True))
    classes = [
        ClassReport(name, int(counts[i]), sum(n for (true, _), n in pairs.items() if true == i), pairs[i, i])
        for i, name in enumerate(names)
    ]
    wrong = sorted(((true, said, n) for (true, said), n in pairs.items() if true != said), key=lambda row: -row[2])
    return classes, [Confusion(names[true], names[said], n) for true, said, n in wrong]
