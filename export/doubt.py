"""Doubt: calibrated scores, and a distance beyond which a photo is unlike what the student learned, for the card.

Both are fitted with the published file on photos that the student was not trained on: the temperature that calibrates
the scores, and the distance that 5 % of these photos exceed. The card also gets the calibration error, and the share of
noise, text pages and drawings that is flagged.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace
from PIL import Image, ImageDraw, ImageFont

from export.photos import NO_MORE, Labelled, MorePhotos
from leap_zoo import doubt
from leap_zoo.card import Doubt, Metric, ModelCard
from leap_zoo.doubt import Floats
from leap_zoo.model import Model, softmax
from leap_zoo.preprocess import to_tensor

Integers = npt.NDArray[np.int64]
TEMPERATURES = np.geomspace(0.25, 4, 161)
BINS = 15
DRAWN = 100  # pictures of each kind that is not a photo
ECE, FLAGGED = "expected calibration error", "flagged as unlike what was learned"


def with_doubt(card: ModelCard, model: Model, aside: Labelled, more: MorePhotos = NO_MORE) -> ModelCard:
    """The card with the doubt of the head of which `aside` has labels, and figures of `model`, the file that is loaded.

    more: photos on which nothing is fitted; those of the world are measured if their labels are of the same head.
    """
    head = next(head for head in card.heads if head.name == aside.head)

    def logits_of(photos: Labelled) -> Floats:
        return model.run(photos.pixels, [head.output])[head.output]

    logits, labels = logits_of(aside), aside.labels
    threshold, divisor = doubt.threshold(doubt.energies(logits)), temperature(logits, labels)
    halves = np.arange(len(logits)) % 2  # each is judged by the other's temperature
    by_other = np.array([temperature(logits[halves != side], labels[halves != side]) for side in (0, 1)], np.float32)
    metrics = _errors(aside, logits, by_other[halves][:, None])
    unlike = []
    if more.world is not None and more.world.head == head.name:
        metrics += _errors(more.world, logits_of(more.world), np.array([divisor], np.float32))
        unlike.append(more.world)
    for name, pictures in (("noise", noise(DRAWN)), ("text pages", text_pages(DRAWN))):
        pixels = np.stack([to_tensor(picture, card.preprocessing) for picture in pictures])
        unlike.append(Labelled(pixels, np.zeros(DRAWN, np.int64), head.name, name, "drawn"))
    if more.drawings is not None:
        unlike.append(more.drawings)
    metrics += [photos.share(FLAGGED, doubt.energies(logits_of(photos)) > threshold) for photos in unlike]
    known = Doubt(temperature=divisor, threshold=threshold, dataset=aside.dataset, n=len(labels))
    measured = replace(model.artifact, metrics=[*model.artifact.metrics, *metrics])
    return replace(
        card,
        heads=[replace(head, doubt=known) if each is head else each for each in card.heads],
        artifacts=[measured if each.file == measured.file else each for each in card.artifacts],
    )


def _errors(photos: Labelled, logits: Floats, divisors: Floats) -> list[Metric]:
    after, before = (
        calibration_error(scores.max(axis=1), scores.argmax(axis=1) == photos.labels)
        for scores in (softmax(logits / divisors), softmax(logits))
    )
    return [photos.metric(ECE, after), photos.metric(f"{ECE}, before", before)]


def temperature(logits: Floats, labels: Integers) -> float:
    """The divisor of logits (N, C) that maximizes the likelihood of labels (N,). Guo et al. 2017."""
    rows = np.arange(len(labels))
    scaled = (logits / np.float32(each) for each in TEMPERATURES)
    likelihoods = [doubt.energies(each).mean() + each[rows, labels].mean() for each in scaled]
    return float(TEMPERATURES[int(np.argmax(likelihoods))])


def calibration_error(sure: Floats, right: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error (0..1) of scores (N,) that are right or not (N,), in bins of equal width."""
    at = np.minimum((sure * bins).astype(np.int64), bins - 1)
    return sum(abs(float((sure - right)[at == each].sum())) for each in range(bins)) / len(sure)


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
