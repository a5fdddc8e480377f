"""`fit`: photos of your own classes -> a head in closed form, with how good and how sure it is.

One kind serves any number of photos: linear discriminant analysis with a shrunk covariance. With one photo per class it
says the class of the nearest photo; with 1 to 20 it is as accurate as a logistic regression (results/fit.csv).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from leap_zoo.doubt import Floats, bounded, distances, threshold
from leap_zoo.errors import ImageError, InvalidArgument, short, whole_number
from leap_zoo.folders import Found, list_folder, name_of, photos_below, readable
from leap_zoo.heads import MAX_CLASSES, MAX_LABEL, CrossValidation, CustomHead, HeadCard
from leap_zoo.intervals import wilson
from leap_zoo.model import Model, Space, output_of
from leap_zoo.preprocess import ImageSource, read_photo
from leap_zoo.progress import Progress

SHRINKAGE = 0.6
FEW = 1000  # photos, up to which there are 10 folds, beyond 5: fewer photos aside is nearer to the real head
SCALE_ALONE = 12.0  # where no photo can be put aside: rather too doubtful for one photo per class
ALONE = "the nearest photo, as no class has two; not cross-validated"
_SCALES = np.geomspace(0.5, 200, 60)

LabelledPhotos = str | os.PathLike[str] | Mapping[str, Sequence[ImageSource]]
Labels = npt.NDArray[np.intp]


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
    Where classes have two photos or more, each is put aside once, to say how accurate the head is, how sure it may be,
    and from which distance on a photo is of none of the classes. Bad photos are skipped and listed.
    Raises InvalidArgument for fewer than two classes, or a class without a readable photo.
    """
    output = output_of(space)
    given, found = _by_class(photos)
    names = list(given)
    if len(names) < 2:
        raise InvalidArgument(f"a head needs two classes, found {len(names)}: give a folder with a folder each")
    seed = whole_number(seed, "seed", 0)
    embedded = _embed(model, given, found, output, progress)
    vectors, labels = embedded.vectors, embedded.labels
    counts = np.bincount(labels, minlength=len(names))
    empty = [names[i] for i in np.flatnonzero(counts == 0)]
    if empty:
        raise InvalidArgument(f"no readable photo of {', '.join(map(short, empty[:5]))}: add some, or take it out")
    with Progress(rounds(labels), shown=progress) as bar:
        judged = judge(vectors, labels, len(names), seed, bar.step)
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
        validation=judged.validation(labels),
        threshold=judged.threshold,
    )
    pairs = Counter(zip(labels[judged.tested].tolist(), judged.predicted.tolist(), strict=True))
    tested = np.bincount(labels[judged.tested], minlength=len(names)).tolist()
    classes = [ClassReport(names[i], card.photos[i], tested[i], pairs[i, i]) for i in range(len(names))]
    confusions = [Confusion(names[true], names[said], n) for (true, said), n in pairs.most_common() if true != said]
    head = CustomHead(card, *learn(vectors, labels, len(names)))
    return Fit(head, classes, confusions, embedded.digests, found.bad, embedded.notes, dict(found.skipped))


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
    given, found = _by_class(photos)
    unknown = [label for label in given if label not in head.labels]
    if unknown:
        raise InvalidArgument(f"the head has no class {short(unknown[0])}: name the folders as those it was fitted on")
    embedded = _embed(model, given, found, head.output, progress, learned)
    n = len(embedded.labels)
    if n == 0:
        raise InvalidArgument("no readable photo to test on that is new to the head: give a folder per class")
    truth = np.array([head.labels.index(label) for label in given])[embedded.labels]
    logits, limit = head.logits(embedded.vectors), head.card.threshold
    right = float((logits.argmax(axis=1) == truth).mean())
    confidence = float(np.exp(logits.max(axis=1)).mean())
    unsure = None if limit is None else float((head.distances(embedded.vectors) > limit).mean())
    return Score(right, wilson(right, n), n, confidence, unsure, found.bad, embedded.notes, dict(found.skipped))


def learn(embeddings: Floats, labels: Labels, classes: int) -> tuple[Floats, Floats]:
    """weight (C, D) and bias (C,): class means seen through the inverse of one covariance for all classes.

    embeddings (N, D) of unit length; labels (N,) in 0..C-1, every class at least once. The covariance within classes,
    in units of its mean variance, is drawn towards the identity by SHRINKAGE; every class is held to be as likely as
    any other.
    """
    means = np.zeros((classes, embeddings.shape[1]))
    np.add.at(means, labels, embeddings)
    means /= np.bincount(labels, minlength=classes)[:, None]
    rest = embeddings - means[labels]
    variance = float((rest * rest).mean())
    covariance = np.eye(embeddings.shape[1])
    if variance > 1e-9:
        covariance = SHRINKAGE * covariance + (1 - SHRINKAGE) / (len(rest) * variance) * (rest.T @ rest)
    weight = np.linalg.solve(covariance, means.T).T
    return weight.astype(np.float32), (-0.5 * (weight * means).sum(axis=1)).astype(np.float32)


@dataclass(frozen=True)
class Judged:
    """What cross-validation found: of the M photos that were put aside once, each judged without its own help.

    scale: makes scores into logits. threshold: the distance beyond which a photo is unlike them, None for M = 0 (no
    class has two photos). tested (M,): which photos. predicted (M,): the class that was said of each. confidence (M,):
    with what probability. unsure (M,): whether it was taken for a photo of none of the classes.
    """

    scale: float
    threshold: float | None
    folds: int
    tested: Labels
    predicted: Labels
    confidence: Floats
    unsure: npt.NDArray[np.bool_]

    def validation(self, labels: Labels) -> CrossValidation | None:
        """The same in a head's card; None for M = 0. labels: of all photos."""
        n = len(self.tested)
        if n == 0:
            return None
        right = float((self.predicted == labels[self.tested]).mean())
        confidence, unsure = float(self.confidence.mean()), float(self.unsure.mean())
        return CrossValidation(
            accuracy=right, interval=wilson(right, n), n=n, folds=self.folds, confidence=confidence, unsure=unsure
        )


def judge(
    embeddings: Floats, labels: Labels, classes: int, seed: int = 0, step: Callable[[], None] = lambda: None
) -> Judged:
    """Put every photo aside once, and judge it by a classifier, a scale and a threshold of the others.

    embeddings (N, D), labels (N,) in 0..classes-1. `step` is called `rounds(labels)` times.
    """
    folds, photos = rounds(labels), len(labels)
    fold = _folds(labels, folds, np.random.default_rng(seed))
    tested = np.flatnonzero(fold >= 0)
    predicted, confidence = np.zeros(len(tested), np.intp), np.zeros(len(tested), np.float32)
    unsure = np.zeros(len(tested), np.bool_)
    if not len(tested):
        return Judged(SCALE_ALONE, None, 0, tested, predicted, confidence, unsure)
    scores = np.zeros((photos, classes), np.float32)
    for each in range(folds):
        weight, bias = learn(embeddings[fold != each], labels[fold != each], classes)
        scores[fold == each] = embeddings[fold == each] @ weight.T + bias
        step()
    scores, fold = scores[tested], fold[tested]
    losses, found = _losses(scores, labels[tested], photos), distances(scores)
    predicted = scores.argmax(axis=1)
    for each in range(folds):
        aside, others = fold == each, fold != each
        logits = bounded(scores[aside] * np.float32(_best_scale(losses[:, others])), photos)
        confidence[aside] = np.exp(logits.max(axis=1))
        unsure[aside] = found[aside] > threshold(found[others])
    return Judged(_best_scale(losses), threshold(found), folds, tested, predicted, confidence, unsure)


def rounds(labels: Labels) -> int:
    """How many folds there are: no more than the largest class has photos; 0 where none can be put aside."""
    most = int(np.bincount(labels).max())
    return min(10 if len(labels) <= FEW else 5, most) if most > 1 else 0


def _folds(labels: Labels, count: int, random: np.random.Generator) -> Labels:
    """(N,): the round in which a photo is put aside. Classes are spread over the rounds; where a class has no more
    photos than there are rounds, one is put aside at a time. -1, never, for the only photo of its class.
    """
    fold = np.full(len(labels), -1, np.intp)
    start = 0
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        if len(rows) > 1:
            fold[rows] = (start + np.arange(len(rows))) % count
            start += len(rows)
    return fold


def _losses(scores: Floats, labels: Labels, photos: int) -> npt.NDArray[np.float64]:
    """(S, M): the log loss of each photo's scores (M, C) at each of _SCALES.

    After Platt (1999), the right class is worth (photos + 1) / (photos + 2) and the best of the others the rest: where
    all photos are recognised, no scale would be large enough otherwise.
    """
    rows = np.arange(len(labels))
    shifted = scores - scores.max(axis=1, keepdims=True)
    right, others = shifted[rows, labels], shifted.copy()
    others[rows, labels] = -np.inf
    target = (right * (photos + 1) + others.max(axis=1)) / (photos + 2)
    return np.stack([np.log(np.exp(shifted * np.float32(s)).sum(axis=1)) - s * target for s in _SCALES])


def _best_scale(losses: npt.NDArray[np.float64]) -> float:
    return float(_SCALES[int(losses.mean(axis=1).argmin())])


def _by_class(photos: LabelledPhotos) -> tuple[dict[str, list[ImageSource]], Found]:
    """The photos by label, labels sorted; and what was skipped in their folders."""
    found = Found()
    if isinstance(photos, Mapping):
        for label, members in photos.items():
            if not (isinstance(label, str) and 0 < len(label) <= MAX_LABEL and isinstance(members, (list, tuple))):
                raise InvalidArgument(f"class {short(label)}: give a label of text, and a list of photos")
        return {label: list(photos[label]) for label in sorted(photos)}, found
    folders, beside = list_folder(os.fsdecode(photos), found, links=True)
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
    return classes, found


@dataclass(frozen=True)
class _Embedded:
    vectors: Floats  # (N, D) of the photos that could be read
    labels: Labels  # (N,)
    digests: frozenset[bytes]
    notes: list[str]


def _embed(
    model: Model,
    photos: dict[str, list[ImageSource]],
    found: Found,
    output: str,
    progress: bool,
    learned: frozenset[bytes] = frozenset(),
) -> _Embedded:
    """What cannot be read goes into `found`; files that are there twice, byte for byte, are noted.

    Within a class one is kept: cross-validation would put one aside and learn from its twin. Across classes both are:
    only the user knows which is right.
    """
    names = list(photos)
    seen: dict[bytes, dict[int, str]] = {}  # digest -> class -> name of its photo
    kept: list[tuple[int, str, ImageSource]] = []
    notes, copies, known = [], 0, 0
    for label, members in enumerate(photos.values()):
        for number, source in enumerate(members):
            digest = _digest(source)
            if digest in learned:
                known += 1
                continue
            twins = seen.setdefault(digest, {})
            if label in twins:
                copies += 1
                continue
            is_path = isinstance(source, (str, os.PathLike))
            name = name_of(str(source)) if is_path else f"{names[label]}, photo {number} (from 0)"
            for other, twin in list(twins.items())[:1]:
                notes.append(f"{name} ({names[label]}) and {twin} ({names[other]}) are the same photo in two classes")
            twins[label] = name
            kept.append((label, name, source))
    if copies:
        notes.append(f"{copies} copies of photos of the same class were left out")
    if known:
        notes.append(f"{known} test photos that the head had learned from were left out")
    sources = (source for _, _, source in kept)
    with Progress(len(kept), shown=progress) as bar:
        good = list(readable(model, [name for _, name, _ in kept], sources, output, found, lambda *_: bar.step()))
    vectors = np.stack([row for _, row in good]) if good else np.empty((0, 0), np.float32)
    labels = np.array([kept[number][0] for number, _ in good], np.intp)
    return _Embedded(vectors, labels, frozenset(seen), notes)


def _digest(photo: ImageSource) -> bytes:
    """sha256 of a photo's file; unlike every other for what is not a file, or cannot be read."""
    try:
        data = read_photo(photo) if isinstance(photo, (str, os.PathLike)) else photo
    except ImageError:
        data = None
    return hashlib.sha256(data).digest() if isinstance(data, (bytes, bytearray, memoryview)) else os.urandom(32)
