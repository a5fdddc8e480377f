"""Photos in memory, decoded once; augmented in batches on the way to the student."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm.data
import torch
from torch import Tensor
from torch.utils.data import Sampler
from torchvision.transforms import InterpolationMode, v2
from tqdm import tqdm

from leap_zoo.card import Preprocessing
from leap_zoo.device import available_threads
from leap_zoo.errors import ImageError
from leap_zoo.preprocess import to_tensor
from train import recipe
from train.errors import TrainError
from train.unlabelled import EXTENSIONS, Source, find_photos


@dataclass(frozen=True)
class Photos:
    """Decoded photos: pixels uint8 (N, H, W, 3) RGB; labels int64 (N,), indices into `classes` (folder names).

    A label of -1: the photo has none. `skipped` are those that could not be decoded, with the reason.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def and_more(self, others: Photos) -> Photos:
        """These photos and then `others`, whose labels do not count."""
        pixels = np.concatenate([self.pixels, others.pixels])
        labels = np.concatenate([self.labels, np.full(len(others), -1, np.int64)])
        return Photos(pixels, labels, self.classes, self.skipped + others.skipped)


@dataclass(frozen=True)
class Split:
    """Where the photos of a split are, before they are decoded: sources[i] has label labels[i]."""

    sources: list[Source | npt.NDArray[np.uint8]]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    def decode(self, spec: Preprocessing, what: str = "photos") -> Photos:
        """Decode all photos by the shared preprocessing; broken ones are counted, reported and left out."""
        pixels, labels, broken = [], [], []
        with ThreadPoolExecutor(available_threads()) as pool:
            found = pool.map(lambda source: _attempt(source, spec), self.sources)
            progress = tqdm(zip(found, self.labels, strict=True), what, len(self), leave=False, mininterval=1)
            for number, (result, label) in enumerate(progress):
                if isinstance(result, str):
                    broken.append((str(self.sources[number]), result))
                else:
                    pixels.append(result)
                    labels.append(label)
        if broken:
            name, reason = broken[0]
            print(f"{len(broken)} of {len(self)} {what} left out, the first: {name}: {reason}")
        if not pixels:
            raise TrainError(f"none of the {len(self)} {what} can be decoded; look at the folder")
        return Photos(np.stack(pixels), np.array(labels, np.int64), self.classes, tuple(broken))

    def take(self, chosen: npt.NDArray[np.intp]) -> Split:
        """The photos at these positions."""
        return Split([self.sources[i] for i in chosen], self.labels[chosen], self.classes)


@dataclass(frozen=True)
class Splits:
    """train: distillation and probe. val: reported. held_out: photos that no training sees (may be empty)."""

    train: Split
    val: Split
    held_out: Split


def find_splits(data: recipe.Data) -> Splits:
    """List the photos of a recipe, without decoding them. Raises TrainError for a missing or empty folder."""
    if data.source == "digits":
        return _digits()
    folders: dict[str, Split] = {}
    for key in ("train", "val"):
        folder = getattr(data, key)
        if folder is None:
            raise TrainError(f"this recipe needs photos: give data.{key}=FOLDER, with a folder per class in it")
        folders[key] = labelled_folder(Path(folder), key)
    train, val = folders["train"], folders["val"]
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise TrainError(f"data.train and data.val have different class folders: {', '.join(odd[:5])}")
    kept = {"train": train, "val": val}
    out: list[Split] = []
    if data.held_out:
        matches = {
            key: np.array([fnmatch(source.name, data.held_out) for source in split.sources], bool)
            for key, split in kept.items()
        }
        out = [split.take(np.flatnonzero(matches[key])) for key, split in kept.items()]
        kept["train"] = train.take(np.flatnonzero(~matches["train"]))
    held_out = Split(
        [source for split in out for source in split.sources],
        np.concatenate([split.labels for split in out]) if out else np.empty(0, np.int64),
        train.classes,
    )
    return Splits(kept["train"], kept["val"], held_out)


def find_more(data: recipe.Data) -> Split:
    """The photos of `data.more`, which only the distillation sees; held-out ones are left out. Raises TrainError."""
    found = [photo for place in data.more for photo in find_photos(Path(place))]
    if data.held_out:
        found = [photo for photo in found if not fnmatch(photo.name, data.held_out)]
    return Split(list(found), np.full(len(found), -1, np.int64), ())


def class_labels(classes: tuple[str, ...]) -> list[str]:
    """Readable labels of class folders: the first name of a wnid in ImageNet's list, else the folder's name."""
    info = timm.data.ImageNetInfo("imagenet-1k")
    known = {wnid: info.index_to_description(index) for index, wnid in enumerate(info.label_names())}
    return [known.get(name, name).split(",")[0] for name in classes]


def imagenet_indices(classes: tuple[str, ...]) -> npt.NDArray[np.int64] | None:
    """The ImageNet-1k index of each class folder, or None when one of them is no wnid."""
    wnids = {wnid: index for index, wnid in enumerate(timm.data.ImageNetInfo("imagenet-1k").label_names())}
    if not all(name in wnids for name in classes):
        return None
    return np.array([wnids[name] for name in classes], np.int64)


def imagenet_labels() -> list[str]:
    """The 1000 labels of ImageNet-1k in the order of a classifier's outputs: first name, doubles told apart."""
    info = timm.data.ImageNetInfo("imagenet-1k")
    full = [info.index_to_description(index) for index in range(info.num_classes())]
    short = [text.split(",")[0] for text in full]
    labels = []
    for index, (name, text) in enumerate(zip(short, full, strict=True)):
        if short.count(name) == 1:
            labels.append(name)
        else:  # two cranes have nothing but `crane` to their name: only the definition tells bird from machine
            labels.append(text if full.count(text) == 1 else info.index_to_description(index, detailed=True))
    return labels


class EpochSampler(Sampler[int]):
    """A permutation per epoch that depends on seed and epoch only, so a resumed run sees the same batches."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())

    def __len__(self) -> int:
        return self.size


class Shares(Sampler[list[int]]):
    """The batches of an epoch as one process of several, or of one that accumulates gradients, takes them.

    Each batch of `batch` photos, of which the last may be smaller, is cut into `processes` * `accumulate` pieces of
    equal size (give or take one photo); rank r takes pieces r, r + processes, ... of it, one after the other. So all
    processes together take the very batches that one process takes. A last batch with fewer photos than pieces repeats
    some of them.
    """

    def __init__(
        self, sampler: EpochSampler, batch: int, rank: int = 0, processes: int = 1, accumulate: int = 1
    ) -> None:
        self.sampler, self.batch, self.rank = sampler, batch, rank
        self.processes, self.accumulate = processes, accumulate
        self._done = 0

    def skip(self, done: int) -> None:
        """Leave out so many pieces of the next epoch that is begun: a resumed run has learned from them."""
        self._done = done

    def __iter__(self) -> Iterator[list[int]]:
        done, self._done = self._done, 0
        photos = torch.tensor(list(self.sampler))
        pieces = self.processes * self.accumulate
        for batch in photos.split(self.batch)[done // self.accumulate :]:
            shares = batch[torch.arange(max(pieces, len(batch))) % len(batch)].tensor_split(pieces)
            for share in shares[self.rank :: self.processes][done % self.accumulate :]:
                yield share.tolist()
            done = 0  # of the batches that follow

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch) * self.accumulate


class Augmenter:
    """uint8 (B, H, W, 3) -> float32 (B, 3, size, size) in 0..1.

    Crop and flip are drawn per photo; colour, grey and blur per group of 8, which is eight times cheaper.
    Depends on (seed, step, piece) only.
    """

    GROUP = 8

    def __init__(self, spec: recipe.Augment, size: int, seed: int) -> None:
        self.seed, self.mix = seed, spec.mix
        bilinear = InterpolationMode.BILINEAR
        self.shape = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=spec.scale, interpolation=bilinear, antialias=True),
                v2.RandomHorizontalFlip(spec.flip),
            ]
        )
        blur = v2.GaussianBlur(_odd(size / 16), sigma=(0.1, 2.0))
        self.colour = v2.Compose(
            [
                v2.RandomApply([v2.ColorJitter(*spec.colour)], spec.jitter),
                v2.RandomGrayscale(spec.grey),
                v2.RandomApply([blur], spec.blur),
            ]
        )

    def __call__(self, pixels: Tensor, step: int, piece: int = 0) -> Tensor:
        """Augment the batch of optimiser step `step`, or one piece of it (see `Shares`): each has draws of its own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1_000_003 + step + (piece << 40))
            images = torch.stack([self.shape(image) for image in pixels.permute(0, 3, 1, 2)])
            images = images.float() / 255  # before colour: float is the faster type there
            images = torch.cat([self.colour(group) for group in images.split(self.GROUP)])
            images = images.clamp_(0, 1)  # the grey of pure white rounds to a little more than 1
            if self.mix:  # one scalar for the batch; teacher and student see the same pixels
                share = torch.rand(()).item()
                images = share * images + (1 - share) * images[torch.randperm(len(images))]
        return images


def _attempt(source: Source | npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.uint8] | str:
    """The decoded photo, or why it cannot be decoded."""
    try:
        return to_tensor(source if isinstance(source, Path | np.ndarray) else source.read(), spec)
    except (ImageError, OSError) as error:
        return " ".join(str(error).split())


def _odd(size: float) -> int:
    return 2 * math.ceil(size / 2) + 1


def labelled_folder(folder: Path, key: str = "train") -> Split:
    """The photos of a folder that has a folder per class. `key`: for the error. Raises TrainError."""
    if not folder.is_dir():
        raise TrainError(f"no folder {folder}; give data.{key}=FOLDER, with a folder per class in it")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    sources: list[Source | npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in EXTENSIONS)
        sources += found
        labels += [label] * len(found)
    if not sources:
        raise TrainError(f"{folder} holds no photos; data.{key} expects a folder per class, with photos in each")
    return Split(sources, np.array(labels, np.int64), classes)


def _digits() -> Splits:
    """scikit-learn's 1797 digits: the fifth part of each class, drawn with a fixed seed, is val."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    grey = (bunch.images / 16 * 255).round().astype(np.uint8)  # (N, 8, 8)
    sources = list(grey)
    labels = bunch.target.astype(np.int64)
    classes = tuple(str(digit) for digit in range(10))
    train, val = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    every = Split(sources, labels, classes)
    return Splits(every.take(train), every.take(val), every.take(np.empty(0, np.intp)))
