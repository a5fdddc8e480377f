"""Photos decoded once, into one file on disk per set and view, and read from there by memory mapping.

A store is two files named by a digest of view and list of photos: `<digest>.u8`, the pixels (uint8, N x side x side x
3, RGB, no header), and `<digest>.parquet`, the index: a row per photo (its position in the list, its path, width and
height in pixels), the view, and the photos that could not be decoded. The index is written last; a store without one is
made again. Later runs, resumed runs and all processes of a machine share a store.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet
from PIL import Image
from tqdm import tqdm

from leap_zoo.card import Preprocessing
from leap_zoo.device import available_threads
from leap_zoo.errors import ImageError
from leap_zoo.preprocess import open_image, to_tensor
from train.data.sources import Source
from train.data.splits import Split
from train.errors import TrainError

FORMAT = 1  # raise it when the same photos come to give other pixels
CHUNK = 256  # photos that are decoded before they are written
SKIPPED_SHOWN = 1000  # reasons that an index keeps

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Whole:
    """The whole photo, squashed to a square; random crops undo the squash by the photo's aspect ratio."""

    side: int

    @property
    def least(self) -> int:
        """A JPEG may be decoded at a fraction of its size, as long as its short side stays above these pixels."""
        return 2 * self.side

    def of(self, photo: Image.Image) -> Pixels:
        """(side, side, 3)."""
        return np.array(photo.resize((self.side, self.side), Image.Resampling.BILINEAR), np.uint8)


@dataclass(frozen=True)
class Shown:
    """The photo as a deployed model sees it, by `leap_zoo.preprocess`."""

    spec: Preprocessing

    @property
    def side(self) -> int:
        """Of the square."""
        return self.spec.size

    @property
    def least(self) -> int:
        """See `Whole`."""
        return max(512, self.spec.short_side)

    def of(self, photo: Image.Image) -> Pixels:
        """(side, side, 3)."""
        return to_tensor(photo, self.spec)


View = Whole | Shown


@dataclass(frozen=True)
class Photos:
    """Decoded photos: pixels uint8 (N, side, side, 3) RGB, often memory-mapped; labels int64 (N,), -1 for none.

    classes: folder names. aspect: width / height of the whole photos, float32 (N,). skipped: photos that could not be
    decoded, and why.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    aspect: npt.NDArray[np.float32]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def first(self, most: int) -> Photos:
        """At most so many of them, still memory-mapped."""
        return replace(self, pixels=self.pixels[:most], labels=self.labels[:most], aspect=self.aspect[:most])

    def take(self, chosen: npt.NDArray[np.intp]) -> Photos:
        """The photos at these positions, copied into memory."""
        return Photos(self.pixels[chosen], self.labels[chosen], self.classes, self.aspect[chosen], self.skipped)


def open_photos(split: Split, views: Sequence[View], folder: Path, what: str = "photos") -> list[Photos]:
    """The photos of a split in each view, from their stores in `folder`; missing ones are decoded and stored.

    A photo that is missing in several views is decoded once. Broken photos are counted, reported and left out.
    Raises TrainError when none can be decoded, or the folder cannot be written.
    """
    listed = _list_digest(split.sources)
    names = [hashlib.sha256(repr((FORMAT, view, listed)).encode()).hexdigest()[:32] for view in views]
    missing = [(view, name) for view, name in zip(views, names, strict=True) if not _index(folder, name).is_file()]
    try:
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            _decode(split.sources, missing, folder, what)
        return [_read(folder, name, view, split) for view, name in zip(views, names, strict=True)]
    except (OSError, pyarrow.ArrowException) as error:
        raise TrainError(
            f"cannot use the store of decoded photos in {folder} ({' '.join(str(error).split())}); make room, delete "
            "its files, or choose another folder with data.store=FOLDER"
        ) from error


def in_memory(split: Split, view: View, what: str = "photos") -> Photos:
    """The photos of a small split, decoded into memory. Raises as `open_photos` does."""
    with tempfile.TemporaryDirectory() as folder:
        (photos,) = open_photos(split, [view], Path(folder), what)
        return photos.take(np.arange(len(photos)))


def _decode(sources: Sequence[Source], views: Sequence[tuple[View, str]], folder: Path, what: str) -> None:
    """Write the stores of several views at once."""
    partials = [folder / f"{name}.{os.getpid()}.partial" for _, name in views]
    rows: dict[str, list[object]] = {"position": [], "path": [], "width": [], "height": []}
    skipped: list[tuple[str, str]] = []
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(partial.open("wb")) for partial in partials]
            for number, found in _decoded(sources, [view for view, _ in views], what):
                if isinstance(found, str):
                    skipped.append((_name(sources[number]), found))
                    continue
                for file, pixels in zip(files, found[0], strict=True):
                    file.write(pixels.tobytes())
                for key, value in zip(rows, (number, _name(sources[number]), *found[1]), strict=True):
                    rows[key].append(value)
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        if skipped:
            print(f"{len(skipped)} of {len(sources)} {what} left out, the first: {': '.join(skipped[0])}")
        if len(skipped) == len(sources):
            raise TrainError(f"none of the {len(sources)} {what} can be decoded; look at the folder")
        for partial, (view, name) in zip(partials, views, strict=True):
            os.replace(partial, folder / f"{name}.u8")
            about = {"view": repr(view), "side": view.side, "skipped": skipped[:SKIPPED_SHOWN]}
            table = pyarrow.table(rows).replace_schema_metadata({"store": json.dumps(about)})
            pyarrow.parquet.write_table(table, partial)
            os.replace(partial, _index(folder, name))
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def _decoded(
    sources: Sequence[Source], views: Sequence[View], what: str
) -> Iterator[tuple[int, tuple[list[Pixels], tuple[int, int]] | str]]:
    """For each photo its number and (a picture per view, (width, height)), or why it cannot be decoded; in order."""
    side = max(view.least for view in views)

    def attempt(source: Source) -> tuple[list[Pixels], tuple[int, int]] | str:
        try:
            photo = open_image(source if isinstance(source, Path | np.ndarray) else source.read(), draft_side=side)
            return [view.of(photo) for view in views], photo.size
        except (ImageError, OSError) as error:
            return " ".join(str(error).split())

    with ThreadPoolExecutor(available_threads()) as pool, tqdm(total=len(sources), desc=what, mininterval=1) as bar:
        for start in range(0, len(sources), CHUNK):
            chunk = sources[start : start + CHUNK]
            yield from enumerate(pool.map(attempt, chunk), start)
            bar.update(len(chunk))


def _read(folder: Path, name: str, view: View, split: Split) -> Photos:
    index = pyarrow.parquet.read_table(_index(folder, name), columns=["position", "width", "height"])
    about = json.loads((index.schema.metadata or {})[b"store"])
    kept, width, height = (index[key].to_numpy() for key in ("position", "width", "height"))
    shape = (len(kept), view.side, view.side, 3)
    file = folder / f"{name}.u8"
    if file.stat().st_size != np.prod(shape):
        raise OSError(f"{file.name} is not as long as its index says")
    pixels = np.memmap(file, np.uint8, mode="r", shape=shape)
    skipped = tuple((str(path), str(reason)) for path, reason in about["skipped"])
    return Photos(pixels, split.labels[kept], split.classes, (width / height).astype(np.float32), skipped)


def _index(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def _list_digest(sources: Sequence[Source]) -> str:
    """Of every photo's place, size and time of change: the list that a store is of."""
    digest = hashlib.sha256()
    for source in sources:
        if isinstance(source, Path):
            known = source.stat()
            digest.update(f"{source.resolve()}\0{known.st_size}\0{known.st_mtime_ns}\n".encode())
        elif isinstance(source, np.ndarray):
            digest.update(f"{source.shape}\0{source.dtype}\n".encode() + source.tobytes())
        else:
            digest.update(f"{source.identity}\n".encode())
    return digest.hexdigest()


def _name(source: Source) -> str:
    return "array" if isinstance(source, np.ndarray) else str(source)
