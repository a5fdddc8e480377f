"""`fit`: photos of your own classes -> a head in closed form, with its accuracy and calibration.

One method serves any number of photos: linear discriminant analysis with a shrunk covariance. With one photo per class
it picks the nearest photo's class; with 1 to 20 it is as accurate as a logistic regression (results/fit.csv).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from leap_zoo.doubt import Floats, bounded, distances, threshold
from leap_zoo.errors import ImageError, InvalidArgument, short, whole_number
from leap_zoo.files import check_path
from leap_zoo.folders import Found, list_folder, name_of, photos_below, readable
from leap_zoo.heads import MAX_CLASSES, MAX_LABEL, CrossValidation, CustomHead, HeadCard
from leap_zoo.intervals import wilson
from leap_zoo.model import Model, Space, output_of
from leap_zoo.preprocess import ImageSource, image_bytes

SHRINKAGE = 0.6
FEW = 1000  # up to this many photos 10 folds, above it 5: smaller folds are closer to the final head
SCALE_ALONE = 12.0  # if no photo can be held out: errs on the side of doubt for one photo per class
ALONE = "nearest photo (one per class); not cross-validated"
_SCALES = [0.5 * 400 ** (step / 59) for step in range(60)]  # from 0.5 to 200

LabelledPhotos = str | os.PathLike[str] | Mapping[str, Sequence[ImageSource]]
Labels = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ClassReport:
    """A class's number of photos, and how many of its held-out photos were recognized."""

    label: str
    photos: int
    tested: int
    right: int


@dataclass(frozen=True)
class Confusion:
    """`count` photos of class `label` were classified as `taken_for`."""

    label: str
    taken_for: str
    count: int


@dataclass(frozen=True)
class Fit:
    """A head, with a report on the fit.

    classes and confusions (most frequent first) come from cross-validation. bad: photos and folders that could not be
    read, and why. skipped: the number of files and folders left out, by reason, as in `leap_zoo.folders.Found`.
    notes: remarks for the user, one sentence each.
    """

    head: CustomHead
    classes: list[ClassReport]
    confusions: list[Confusion]
    bad: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


def fit(
    model: Model, photos: LabelledPhotos, *, space: Space = "student", seed: int = 0, progress: bool = False
) -> Fit:
    """Fit a head to your classes, from one photo per class upward; the same photos and seed give the same head.

    photos: a folder with one folder per class, or a mapping of labels to photos. progress: draw a bar on stderr if it
    is a terminal. In classes with two or more photos, each photo is held out once (cross-validation). That measures the
    accuracy, calibrates the scores, and sets the distance beyond which a photo belongs to none of the classes.
    Unreadable photos are skipped and listed. Raises InvalidArgument for fewer than two classes, or for a class without
    a readable photo.
    """
    output = output_of(space)
    given, found = _by_class(photos)
    names = list(given)
    if len(names) < 2:
        raise InvalidArgument(
            f"a head needs at least two classes, found {len(names)}: give a folder that contains one folder per class"
        )
    seed = whole_number(seed, "seed", 0)
    vectors, labels, notes = _embed(model, given, found, output, progress)
    counts = np.bincount(labels, minlength=len(names))
    empty = [names[i] for i in np.flatnonzero(counts == 0)]
    if empty:
        raise InvalidArgument(f"no readable photo of {', '.join(map(short, empty[:5]))}: add some, or remove the class")
    judged = judge(vectors, labels, len(names), seed)
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
    return Fit(head, classes, confusions, found.bad, notes, dict(found.skipped))


def learn(embeddings: Floats, labels: Labels, classes: int) -> tuple[Floats, Floats]:
    """weight (C, D) and bias (C,) of linear discriminant analysis with one covariance for all classes.

    embeddings (N, D) of unit length; labels (N,) in 0..C-1, every class at least once. The within-class covariance, in
    units of its mean variance, is shrunk toward the identity by SHRINKAGE. All classes have equal priors.
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
    """Results of cross-validation on the M photos that were held out once.

    scale: turns scores into logits. threshold: the distance beyond which a photo is unlike the classes, None for M = 0
    (no class has two photos). tested (M,): indices of the photos. predicted (M,): predicted classes. confidence (M,):
    their probabilities. unsure (M,): whether the photo was reported as none of the classes.
    """

    scale: float
    threshold: float | None
    folds: int
    tested: Labels
    predicted: Labels
    confidence: Floats
    unsure: npt.NDArray[np.bool_]

    def validation(self, labels: Labels) -> CrossValidation | None:
        """The summary for a head's card; None for M = 0. labels: of all photos."""
        n = len(self.tested)
        if n == 0:
            return None
        right = float((self.predicted == labels[self.tested]).mean())
        confidence, unsure = float(self.confidence.mean()), float(self.unsure.mean())
        return CrossValidation(
            accuracy=right, interval=wilson(right, n), n=n, folds=self.folds, confidence=confidence, unsure=unsure
        )


def judge(embeddings: Floats, labels: Labels, classes: int, seed: int = 0) -> Judged:
    """Hold out every photo once, and judge it with a classifier, a scale and a threshold fitted to the others.

    embeddings (N, D), labels (N,) in 0..classes-1. The number of folds is at most the size of the largest class; 0 if
    no photo can be held out.
    """
    most, photos = int(np.bincount(labels).max()), len(labels)
    folds = min(10 if photos <= FEW else 5, most) if most > 1 else 0
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
    scores, fold = scores[tested], fold[tested]
    losses, found = _losses(scores, labels[tested], photos), distances(scores)
    predicted = scores.argmax(axis=1)
    for each in range(folds):
        aside, others = fold == each, fold != each
        logits = bounded(scores[aside] * np.float32(_best_scale(losses[:, others])), photos)
        confidence[aside] = np.exp(logits.max(axis=1))
        unsure[aside] = found[aside] > threshold(found[others])
    return Judged(_best_scale(losses), threshold(found), folds, tested, predicted, confidence, unsure)


def _folds(labels: Labels, count: int, random: np.random.Generator) -> Labels:
    """(N,): the fold in which each photo is held out. Each class is spread over the folds; a class with no more photos
    than there are folds has one held out at a time. -1 (never) for the only photo of its class.
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

    Targets follow Platt (1999): (photos + 1) / (photos + 2) for the right class, the rest for the best other one. With
    hard targets, the optimal scale would be infinite if all photos are recognized.
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
            is_text = isinstance(label, str) and label == label.encode("utf-8", "replace").decode()
            if not (is_text and 0 < len(label) <= MAX_LABEL and isinstance(members, (list, tuple))):
                raise InvalidArgument(f"class {short(label)}: pass labels as strings, each with a list of photos")
        return {label: list(photos[label]) for label in sorted(photos)}, found
    folders, beside = list_folder(str(check_path(photos)), found, links=True)
    if found.bad:
        raise InvalidArgument(next(iter(found.bad.values())))
    if len(folders) > MAX_CLASSES:
        raise InvalidArgument(f"{len(folders)} classes, but a head has at most {MAX_CLASSES}: give a folder with fewer")
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


def _embed(
    model: Model, photos: dict[str, list[ImageSource]], found: Found, output: str, progress: bool
) -> tuple[Floats, Labels, list[str]]:
    """Vectors (N, D) and labels (N,) of the readable photos, and notes on duplicates; the rest goes into `found`.

    Within a class one copy is kept, because cross-validation would hold out one and learn from its twin. Across classes
    both are kept, because only the user knows which label is right.
    """
    names = list(photos)
    seen: dict[bytes, dict[int, str]] = {}  # digest -> class -> name of its photo
    kept: list[tuple[int, str, ImageSource]] = []
    notes, copies = [], 0
    for label, members in enumerate(photos.values()):
        for number, source in enumerate(members):
            twins = seen.setdefault(_digest(source), {})
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
        notes.append(f"exact duplicates within a class were left out: {copies}")
    sources = (source for _, _, source in kept)
    good = list(readable(model, [name for _, name, _ in kept], sources, output, found, progress=progress))
    vectors = np.stack([row for _, row in good]) if good else np.empty((0, 0), np.float32)
    labels = np.array([kept[number][0] for number, _ in good], np.intp)
    return vectors, labels, notes


def _digest(photo: ImageSource) -> bytes:
    """sha256 of a photo's file; a unique value for anything that is not a file or cannot be read."""
    if isinstance(photo, (str, os.PathLike, bytes, bytearray, memoryview)):
        with contextlib.suppress(ImageError):
            return hashlib.sha256(image_bytes(photo)).digest()
    return os.urandom(32)
