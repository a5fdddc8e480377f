"""The photos of an export: some calibrate int8, some select files, others judge them, and more say when to doubt.

What calibrates or selects is of the training split; no figure of a card is measured on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from export.graph import DeployedStudent
from leap_zoo.card import DEAD_HEAD, GENERAL, Metric, Preprocessing
from leap_zoo.errors import InvalidArgument
from leap_zoo.intervals import wilson
from train.data.labels import class_labels, imagenet_indices
from train.data.sources import find_photos
from train.data.splits import Split, labelled_folder, unlabelled
from train.data.store import Shown, in_memory
from train.errors import TrainError
from train.evaluate.__main__ import SHOWN
from train.evaluate.datasets import open_sample, open_world
from train.evaluate.features import extract, teachers_of
from train.run import HeadInfo, Run

CALIBRATION_PHOTOS = 300
SELECTION_PHOTOS = 500
LEAST_ASIDE = 20


@dataclass(frozen=True)
class Labelled:
    """Preprocessed photos uint8 (N, size, size, 3), their class indices (N,) in `head`, and their origin."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    head: str
    dataset: str
    split: str

    @property
    def in_pairs(self) -> bool:
        """Whether each class has two photos or more: otherwise a nearest neighbor of the same class may not exist."""
        return bool(np.unique(self.labels, return_counts=True)[1].min() > 1)

    def metric(self, name: str, value: float, interval: tuple[float, float] | None = None) -> Metric:
        """A figure that was measured on these photos. interval: of 95 %."""
        n = len(self.pixels)
        return Metric(
            name=name, dataset=self.dataset, split=self.split, n=n, value=value, interval=interval, head=self.head
        )

    def share(self, name: str, right: npt.NDArray[np.bool_]) -> Metric:
        """The share of these photos for which something is so, with its interval."""
        share = float(right.mean())
        return self.metric(name, share, wilson(share, len(right)))


@dataclass(frozen=True)
class MorePhotos:
    """Photos beyond the run's own; without them, the card says less.

    aside: to fit doubt on, with labels of the default head; default: the run's validation photos, for its own head.
    world, with labels of the teacher's head, and drawings, which have none: only measured.
    left_out: the top-1 of a head that is left out of the files, for the card.
    """

    aside: Labelled | None = None
    world: Labelled | None = None
    drawings: Labelled | None = None
    left_out: Metric | None = None


NO_MORE = MorePhotos()


def for_int8(run: Run) -> tuple[Labelled, list[Labelled]]:
    """Calibration and selection, disjoint; the selection for the run's own head, and for the teacher's if it has it."""
    train = run.photos().train
    order = np.random.default_rng(run.recipe.seed).permutation(len(train))
    count = min(CALIBRATION_PHOTOS, len(train) // 2)
    chosen = order[:count], order[count : count + SELECTION_PHOTOS]
    calibration, selection = (_own(run, train.take(each), "train") for each in chosen)
    return calibration, [selection, *_for_teacher(run, selection)]


def for_gate(run: Run, more: MorePhotos = NO_MORE) -> list[Labelled]:
    """val for the probe; for the teacher's own classes, if it has them, photos outside of any training set."""
    splits = run.photos()
    held_out = _for_teacher(run, _own(run, splits.held_out, "held-out")) if len(splits.held_out) else []
    return [_own(run, splits.val, "val"), *held_out, *([more.world] if more.world else [])]


def _own(run: Run, photos: Split, split: str) -> Labelled:
    """The run's own photos, with the labels of its own head."""
    return decoded(photos, run.recipe.preprocessing, run.recipe.data.head, run.recipe.data.name, split)


def _for_teacher(run: Run, photos: Labelled) -> list[Labelled]:
    """The same photos with the labels of the teacher's head, if the run has it."""
    classes = run.teacher_classes()
    if classes is None:
        return []
    return [replace(photos, labels=classes[photos.labels], head=str(run.recipe.teacher.head))]


def decoded(photos: Split, spec: Preprocessing, head: str, dataset: str, split: str) -> Labelled:
    """The photos as the deployed model sees them, labeled for a head. Raises TrainError."""
    shown = in_memory(photos, Shown(spec), f"photos of {dataset}, {split}")
    return Labelled(shown.pixels, shown.labels, head, dataset, split)


def more_photos(
    run: Run, aside: Sequence[Path] | None, listed: Path | None, drawings: Path | None
) -> tuple[Run, MorePhotos]:
    """The run, without a head that is too poor on photos of the world; and the photos to measure its files on.

    aside: folders of labeled photos, not used if the head is left out; listed: a CSV of photos of the world;
    drawings: a folder. Raises TrainError, InvalidArgument.
    """
    world = None
    if listed is not None:
        run, world, left_out = without_dead_head(run, listed)
        if left_out is not None:
            return run, MorePhotos(left_out=left_out)
    head = next(head for head in run.info.heads if head.name == run.info.default_head)
    spec = run.recipe.preprocessing
    known = kept_aside(head, spec, aside) if aside else None
    if drawings is None:
        return run, MorePhotos(known, world)
    drawn = unlabelled(find_photos(drawings))
    return run, MorePhotos(known, world, decoded(drawn, spec, head.name, "drawings", drawings.resolve().name))


def without_dead_head(run: Run, listed: Path) -> tuple[Run, Labelled, Metric | None]:
    """The run, photos of the world and None; or, if the student is too poor with the teacher's head on these photos:
    the run without it, the photos, and its top-1.

    listed: a CSV of photos with labels among the head's 1000 classes. The head is dropped if its top-1 (0..1) is less
    than DEAD_HEAD times the teacher's at the teacher's best resolution. Raises InvalidArgument if the run has no such
    head, TrainError if photos or the teacher are missing.
    """
    name, world = str(run.recipe.teacher.head), open_world(listed, SHOWN)[0]
    if not any(head.name == name and len(head.labels) == 1000 for head in run.info.heads):
        raise InvalidArgument("--world measures the teacher's head of 1000 classes, which this run does not have")
    student = DeployedStudent(run).eval()
    teacher = teachers_of([], msgspec.structs.replace(run.recipe.teacher, pixels=None))[0]
    found = []
    for spec, features in (
        (run.recipe.preprocessing, lambda pixels: {"logits": student(pixels)[student.names.index(f"logits_{name}")]}),
        (teacher.preprocessing, teacher.open()),
    ):
        photos = decoded(world.photos, spec, name, world.name, world.split)
        logits = extract(features, photos.pixels, world.name)["logits"].numpy()
        found.append((photos, photos.share(GENERAL, logits.argmax(1) == photos.labels)))
    (photos, ours), (_, theirs) = found
    print(f"{name} on {world.name}: top-1 {ours.value:.1%} on {ours.n} photos; the teacher's is {theirs.value:.1%}")
    if ours.value >= DEAD_HEAD * theirs.value:
        return run, photos, None
    print(f"{name} is left out of the files: its top-1 is less than {DEAD_HEAD:.0%} of the teacher's")
    heads = [head for head in run.info.heads if head.name != name]
    if not heads:
        raise InvalidArgument(f"no head would be left without {name}: set data.head to train a probe")
    info = msgspec.structs.replace(run.info, heads=heads, default_head=heads[0].name)
    kept = {key: tensor for key, tensor in run.tensors.items() if not key.startswith(f"heads.{name}.")}
    # Without the name of a head that the card does not have.
    return msgspec.structs.replace(run, info=info, tensors=kept), photos, msgspec.structs.replace(ours, head=None)


def kept_aside(head: HeadInfo, spec: Preprocessing, folders: Sequence[Path]) -> Labelled:
    """Photos of a head's classes: named by wnid, or in a folder per class, which a wnid or a label names.

    Raises TrainError, also for fewer than LEAST_ASIDE photos.
    """
    found = [_labelled(folder, list(head.labels)) for folder in folders]
    sources = [photo for split in found for photo in split.sources]
    name = ", ".join(folder.resolve().name for folder in folders)
    if len(sources) < LEAST_ASIDE:
        raise TrainError(
            f"{name} has {len(sources)} photos: give at least {LEAST_ASIDE} that the student was not trained on"
        )
    labels = np.concatenate([split.labels for split in found])
    return decoded(Split(sources, labels, ()), spec, head.name, name, "kept aside")


def _labelled(folder: Path, labels: list[str]) -> Split:
    """A folder's photos, with indices among the labels of a head."""
    if not any(entry.is_dir() for entry in folder.glob("*")):
        sample = open_sample(folder).photos
        if len(labels) != 1000:
            raise TrainError(f"{folder} has photos of ImageNet's classes, which the default head does not have")
        return sample
    split = labelled_folder(folder)
    indices = imagenet_indices(split.classes)
    if indices is None or len(labels) != 1000:
        names = class_labels(split.classes)
        if unknown := set(names) - set(labels):
            raise TrainError(f"{folder}: {min(unknown)} is not a class of the default head")
        indices = np.array([labels.index(name) for name in names], np.int64)
    return Split(split.sources, indices[split.labels], ())
