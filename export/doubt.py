"""`python -m export.doubt zoo/leap-tiny --photos FOLDER`: calibrated scores and a threshold of doubt, into the card.

Both are fitted with the published file on photos that the student was not trained on: the temperature that calibrates
the scores, and the distance that 5 % of these photos exceed. The files do not change. The card also gets the
calibration error, and the share of noise, text pages and drawings that is flagged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace
from PIL import Image, ImageDraw, ImageFont

import leap_zoo
from export.card_text import list_model
from export.errors import ExportError
from leap_zoo import doubt
from leap_zoo.card import Doubt, Head, Metric, ModelCard
from leap_zoo.doubt import Floats
from leap_zoo.errors import LeapZooError
from leap_zoo.intervals import wilson
from leap_zoo.model import MAX_BATCH, Model, softmax
from leap_zoo.preprocess import to_tensor
from train.data.labels import class_labels, imagenet_indices
from train.data.sources import Source, find_photos
from train.data.splits import labelled_folder
from train.errors import TrainError
from train.evaluate.datasets import open_sample, open_world

Integers = npt.NDArray[np.int64]
TEMPERATURES = np.geomspace(0.25, 4, 161)
BINS = 15
SHOWN = Path("results/demo_photos.csv")
DRAWN = 300  # pictures of each kind that is not a photo
ECE, FLAGGED = "expected calibration error", "flagged as unlike what was learned"


def temperature(logits: Floats, labels: Integers) -> float:
    """The divisor of logits (N, C) that maximizes the likelihood of labels (N,). Guo et al. 2017."""
    rows = np.arange(len(labels))
    losses = [doubt.energies(scaled).mean() + scaled[rows, labels].mean() for scaled in _scaled(logits)]
    return float(TEMPERATURES[int(np.argmax(losses))])


def _scaled(logits: Floats) -> Iterable[Floats]:
    return (logits / np.float32(each) for each in TEMPERATURES)


def calibration_error(scores: Floats, labels: Integers) -> float:
    """Expected calibration error (0..1) of the best class, in 15 bins of equal width. scores (N, C), labels (N,)."""
    sure, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    gaps = (abs(float((sure - right)[bins == each].sum())) for each in range(BINS))
    return sum(gaps) / len(labels)


def noise(count: int = DRAWN) -> list[Image.Image]:
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


def text_pages(count: int = DRAWN) -> list[Image.Image]:
    """Pages of dark letters on light paper, in several sizes."""
    random, pictures = np.random.default_rng(0), []
    letters = np.array(list("aaabcdeeeeefghiiijklmnnnooopqrrrsssttttuuvwxyz"))
    for _ in range(count):
        page = Image.new("RGB", (600, 800), tuple(random.integers(225, 256, 3).tolist()))
        size, ink = float(random.uniform(12, 28)), tuple(random.integers(0, 60, 3).tolist())
        draw, font = ImageDraw.Draw(page), ImageFont.load_default(size)
        for y in range(40, 760, int(1.4 * size)):
            words = ("".join(random.choice(letters, random.integers(2, 10))) for _ in range(14))
            draw.text((40, y), " ".join(words), fill=ink, font=font)
        pictures.append(page)
    return pictures


def labelled(folder: Path, head: Head) -> tuple[list[Source], Integers]:
    """Photos of the head's classes: file names begin with a wnid, or each class has a folder named by wnid or label.

    Raises TrainError.
    """
    if not any(entry.is_dir() for entry in folder.glob("*")):
        photos = open_sample(folder).photos
        return list(photos.sources), photos.labels
    photos = labelled_folder(folder)
    names, indices = class_labels(photos.classes), imagenet_indices(photos.classes)
    if indices is None or len(head.labels) != 1000:
        if unknown := set(names) - set(head.labels):
            raise TrainError(f"{folder}: {min(unknown)} is not a class of the head {head.name}")
        indices = np.array([head.labels.index(name) for name in names], np.int64)
    return list(photos.sources), indices[photos.labels]


def fit(model: Model, folders: Sequence[Path], world: Path | None, drawings: Path | None) -> ModelCard:
    """The model's card with the doubt of its default head, and figures for it. Raises TrainError, ImageError."""
    head = model.card.head()
    assert head is not None
    found = [labelled(folder, head) for folder in folders]
    drawn = [] if drawings is None else find_photos(drawings)
    name = ", ".join(folder.resolve().name for folder in folders)
    labels = np.concatenate([each for _, each in found])
    if len(labels) < 20:
        raise TrainError(f"{name} has {len(labels)} photos: give at least 20 that the student was not trained on")
    logits = _logits(model, head, [photo for photos, _ in found for photo in photos])
    known = Doubt(
        temperature=temperature(logits, labels),
        threshold=doubt.threshold(doubt.energies(logits)),
        dataset=name,
        n=len(labels),
    )
    halves = np.arange(len(labels)) % 2
    of_other = [temperature(logits[halves != side], labels[halves != side]) for side in (0, 1)]
    scores = softmax(logits / np.array(of_other, np.float32)[halves][:, None])  # by the other half's temperature
    metrics = [
        _metric(ECE, head, (name, "kept aside"), len(labels), calibration_error(scores, labels)),
        _metric(f"{ECE}, before", head, (name, "kept aside"), len(labels), calibration_error(softmax(logits), labels)),
    ]
    if world is not None:
        photos = open_world(world, SHOWN)[0]
        theirs = _logits(model, head, photos.photos.sources)
        where, right = (photos.name, photos.split), photos.photos.labels
        scores = softmax(theirs / np.float32(known.temperature))
        metrics += [
            _metric(ECE, head, where, len(right), calibration_error(scores, right)),
            _metric(f"{ECE}, before", head, where, len(right), calibration_error(softmax(theirs), right)),
            _flagged(theirs, known, head, where),
        ]
    metrics.append(_flagged(_logits(model, head, noise()), known, head, ("noise", "drawn")))
    metrics.append(_flagged(_logits(model, head, text_pages()), known, head, ("text pages", "drawn")))
    if drawings is not None:
        metrics.append(_flagged(_logits(model, head, drawn), known, head, ("drawings", drawings.resolve().name)))
    return _with(model, replace(head, doubt=known), metrics)


def _logits(model: Model, head: Head, photos: Sequence[Source | Image.Image]) -> Floats:
    parts = []
    for start in range(0, len(photos), MAX_BATCH):
        some = (
            photo if isinstance(photo, Path | Image.Image | np.ndarray) else photo.read()
            for photo in photos[start : start + MAX_BATCH]
        )
        pixels = np.stack([to_tensor(photo, model.card.preprocessing) for photo in some])
        parts.append(model.run(pixels, [head.output])[head.output])
    return np.concatenate(parts)


def _flagged(logits: Floats, known: Doubt, head: Head, where: tuple[str, str]) -> Metric:
    share = float((doubt.energies(logits) > known.threshold).mean())
    return _metric(FLAGGED, head, where, len(logits), share, wilson(share, len(logits)))


def _metric(
    name: str, head: Head, where: tuple[str, str], n: int, value: float, interval: tuple[float, float] | None = None
) -> Metric:
    return Metric(name=name, dataset=where[0], split=where[1], n=n, value=value, interval=interval, head=head.name)


def _with(model: Model, head: Head, metrics: Sequence[Metric]) -> ModelCard:
    """The card with this head; these metrics replace earlier ones of the same file."""
    card = model.card
    others = [old for old in model.artifact.metrics if not old.name.startswith((ECE, FLAGGED))]
    measured = replace(model.artifact, metrics=[*others, *metrics])
    return replace(
        card,
        heads=[head if each.name == head.name else each for each in card.heads],
        artifacts=[measured if each.file == measured.file else each for each in card.artifacts],
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 2, with nothing written, for an error that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m export.doubt", description=__doc__)
    parser.add_argument("folder", type=Path, help="a model's folder in a zoo, with its card.json")
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, metavar="FOLDER",
        help="photos that the student was not trained on: named WNID_*, or in a folder per class",
    )  # fmt: skip
    parser.add_argument(
        "--world", type=Path, metavar="PHOTOS.csv", help="also measure on these photos; nothing is fitted on them"
    )
    parser.add_argument("--drawings", type=Path, metavar="FOLDER", help="also measure how many of these are flagged")
    options = parser.parse_args(arguments)
    try:
        with leap_zoo.load(options.folder.resolve()) as model:
            card = fit(model, options.photos, options.world, options.drawings)
        list_model(card, options.folder.resolve().parent)
    except (ExportError, TrainError, LeapZooError, OSError) as error:
        print(f"export.doubt: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    head = card.head()
    assert head is not None
    assert head.doubt is not None
    print(f"{card.id}, {head.name}: temperature {head.doubt.temperature:.3g}, threshold {head.doubt.threshold:.4g}")
    for metric in (m for a in card.artifacts for m in a.metrics if m.name.startswith((ECE, FLAGGED))):
        print(f"  {metric.name}, {metric.dataset}: {metric.value:.1%} (n = {metric.n})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
