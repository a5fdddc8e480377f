"""Doubt: calibrated scores, and a distance beyond which a photo is unlike what the student learned, for the card.

Both are fitted with the published file on photos that the student was not trained on: the temperature that calibrates
the scores, and the distance that 5 % of these photos exceed. The card also gets the calibration error, and the share of
noise, text pages and drawings that is flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from export.gate import Labelled
from leap_zoo import doubt
from leap_zoo.card import Doubt, Head, Metric
from leap_zoo.doubt import Floats
from leap_zoo.intervals import wilson
from leap_zoo.model import Model, softmax
from leap_zoo.preprocess import to_tensor
from train.data.labels import class_labels, imagenet_indices
from train.data.splits import Split, labelled_folder
from train.errors import TrainError
from train.evaluate.datasets import Dataset, open_sample
from train.run import Run

Pixels = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
TEMPERATURES = np.geomspace(0.25, 4, 161)
BINS = 15
DRAWN = 100  # pictures of each kind that is not a photo
ECE, FLAGGED = "expected calibration error", "flagged as unlike what was learned"


@dataclass(frozen=True)
class MorePhotos:
    """Photos beyond the run's own, all with labels of the default head; without them, the card says less.

    aside: to fit doubt on; default: the run's validation photos, for its own head. world and drawings: also measured.
    left_out: the top-1 of a head that is left out of the files, for the card.
    """

    aside: Labelled | None = None
    world: Labelled | None = None
    drawings: Labelled | None = None
    left_out: Metric | None = None


def kept_aside(run: Run, folders: Sequence[Path]) -> Labelled:
    """Photos of the default head's classes: named by wnid, or in a folder per class, which a wnid or a label names.

    Raises TrainError, also for fewer than 20 photos.
    """
    labels = next(head.labels for head in run.info.heads if head.name == run.info.default_head)
    found = [_labelled(folder, labels) for folder in folders]
    sources = [photo for split in found for photo in split.sources]
    name = ", ".join(folder.resolve().name for folder in folders)
    if len(sources) < 20:
        raise TrainError(f"{name} has {len(sources)} photos: give at least 20 that the student was not trained on")
    split = Split(sources, np.concatenate([split.labels for split in found]), ())
    return decoded(run, Dataset(name, "kept aside", split))


def decoded(run: Run, photos: Dataset) -> Labelled:
    """The photos as the deployed model sees them, with labels of the default head. Raises TrainError."""
    shown = run.decode(photos.photos, f"photos of {photos.name}")
    return Labelled(shown.pixels, shown.labels, run.info.default_head, photos.name, photos.split)


def _labelled(folder: Path, labels: Sequence[str]) -> Split:
    if not any(entry.is_dir() for entry in folder.glob("*")):
        sample = open_sample(folder).photos
        if len(labels) != 1000:
            raise TrainError(f"{folder} has photos of ImageNet's classes, which the default head does not have")
        return sample
    split = labelled_folder(folder)
    names, indices = class_labels(split.classes), imagenet_indices(split.classes)
    if indices is None or len(labels) != 1000:
        if unknown := set(names) - set(labels):
            raise TrainError(f"{folder}: {min(unknown)} is not a class of the default head")
        indices = np.array([list(labels).index(name) for name in names], np.int64)
    return Split(split.sources, indices[split.labels], ())


def fit(
    model: Model, head: Head, aside: Labelled, world: Labelled | None = None, drawings: Labelled | None = None
) -> tuple[Doubt, list[Metric]]:
    """The doubt of a head, and figures for it. Nothing is fitted on photos of the `world` and on drawings."""

    def logits_of(pixels: Pixels) -> Floats:
        return model.run(pixels, [head.output])[head.output]

    logits, labels = logits_of(aside.pixels), aside.labels
    threshold, divisor = doubt.threshold(doubt.energies(logits)), temperature(logits, labels)
    known = Doubt(temperature=divisor, threshold=threshold, dataset=aside.dataset, n=len(labels))

    def errors(photos: Labelled, logits: Floats, divisors: Floats) -> list[Metric]:
        metric = partial(Metric, dataset=photos.dataset, split=photos.split, n=len(logits), head=head.name)
        after = calibration_error(softmax(logits / divisors), photos.labels)
        before = calibration_error(softmax(logits), photos.labels)
        return [metric(name=ECE, value=after), metric(name=f"{ECE}, before", value=before)]

    def flagged(dataset: str, split: str, logits: Floats) -> Metric:
        share, n = float((doubt.energies(logits) > threshold).mean()), len(logits)
        interval = wilson(share, n)
        return Metric(name=FLAGGED, dataset=dataset, split=split, n=n, value=share, interval=interval, head=head.name)

    halves = np.arange(len(logits)) % 2  # each is judged by the other's temperature
    by_other = [temperature(logits[halves != side], labels[halves != side]) for side in (0, 1)]
    metrics = errors(aside, logits, np.array(by_other, np.float32)[halves][:, None])
    if world is not None:
        found = logits_of(world.pixels)
        metrics += errors(world, found, np.array([divisor], np.float32))
        metrics.append(flagged(world.dataset, world.split, found))
    for name, pictures in (("noise", noise(DRAWN)), ("text pages", text_pages(DRAWN))):
        pixels = np.stack([to_tensor(picture, model.card.preprocessing) for picture in pictures])
        metrics.append(flagged(name, "drawn", logits_of(pixels)))
    if drawings is not None:
        metrics.append(flagged(drawings.dataset, drawings.split, logits_of(drawings.pixels)))
    return known, metrics


def temperature(logits: Floats, labels: Integers) -> float:
    """The divisor of logits (N, C) that maximizes the likelihood of labels (N,). Guo et al. 2017."""
    rows = np.arange(len(labels))
    scaled = (logits / np.float32(each) for each in TEMPERATURES)
    likelihoods = [doubt.energies(each).mean() + each[rows, labels].mean() for each in scaled]
    return float(TEMPERATURES[int(np.argmax(likelihoods))])


def calibration_error(scores: Floats, labels: Integers) -> float:
    """Expected calibration error (0..1) of the best class, in 15 bins of equal width. scores (N, C), labels (N,)."""
    sure, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    gaps = (abs(float((sure - right)[bins == each].sum())) for each in range(BINS))
    return sum(gaps) / len(labels)


def noise(count: int) -> list[Image.Image]:
    """In turn: uniform noise per pixel and channel, gray Gaussian noise, coarse colored blocks."""
    random, pictures = np.random.default_rng(0), []
    for number in range(count):
        side = (256, 256, int(random.integers(4, 64)))[number % 3]
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        if number % 3 == 1:
            deviation = random.uniform(10, 80)
            pixels = np.clip(random.normal(128, deviation, (side, side, 1)), 0, 255).astype(np.uint8).repeat(3, axis=2)
        pictures.append(Image.fromarray(pixels).resize((256, 256), Image.Resampling.NEAREST))
    return pictures


def text_pages(count: int) -> list[Image.Image]:
    """Pages of dark letters on light paper, in several sizes."""
    random, pictures = np.random.default_rng(0), []
    letters = np.array(list("aaabcdeeeeefghiiijklmnnnooopqrrrsssttttuuvwxyz"))
    for _ in range(count):
        page = Image.new("RGB", (600, 800), tuple(random.integers(225, 256, 3).tolist()))
        size, ink = float(random.uniform(12, 28)), tuple(random.integers(0, 60, 3).tolist())
        draw, font = ImageDraw.Draw(page), ImageFont.load_default(size)
        for y in range(40, 760, int(1.4 * size)):
            words = ("".join(random.choice(letters, random.integers(2, 10))) for _ in range(int(170 / size)))
            draw.text((40, y), " ".join(words), fill=ink, font=font)
        pictures.append(page)
    return pictures
