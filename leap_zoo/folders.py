"""Many photos through a model: batches, decoding ahead of the graph, bad photos skipped and kept track of."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leap_zoo.embeddings import Embeddings
from leap_zoo.errors import ImageError, InvalidArgument, short
from leap_zoo.model import MAX_BATCH, Model, Space, output_of
from leap_zoo.preprocess import ImageSource, to_tensor
from leap_zoo.progress import Progress

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
MOST_DECODERS = 4  # each may hold a photo of 50 megapixels

Row = npt.NDArray[np.float32]
Tensor = npt.NDArray[np.uint8]


def photos_below(folder: str | os.PathLike[str]) -> list[str]:
    """The photos in a folder and its folders, by suffix, sorted; hidden files are none. Raises InvalidArgument."""
    below = sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith(".")
    )
    if not below:
        raise InvalidArgument(f"no photos in the folder {short(folder)}: give one that holds .jpg, .png, ...")
    return below


def printable(path: str) -> str:
    """A path as valid UTF-8, which file names need not be."""
    return os.fsencode(path).decode("utf-8", "replace")


def embed_folder(
    model: Model, folder: str | os.PathLike[str], *, space: Space = "student", progress: bool = False
) -> Embeddings:
    """Embed every photo below a folder. progress: draw a bar on stderr, when that is a terminal.

    A photo that cannot be read is left out and listed in `bad`. Raises InvalidArgument when there is no photo at all.
    """
    output, photos = output_of(space), photos_below(folder)
    names: list[str] = []
    rows: list[Row] = []
    bad: dict[str, str] = {}
    with Progress(len(photos), shown=progress) as bar:
        for photo, answer in zip(map(printable, photos), answers(model, photos, output), strict=True):
            if isinstance(answer, ImageError):
                bad[photo] = str(answer)
            else:
                names.append(photo)
                rows.append(answer)
            bar.step()
    return Embeddings.of(model.card, space, names, rows, bad)


def answers(model: Model, photos: Iterable[ImageSource], output: str) -> Iterator[Row | ImageError]:
    """For each photo, in order, its row (D,) of an output, or what is wrong with it.

    Photos are decoded while the graph runs, by as many threads as it has (at most 4) and two batches ahead at most.
    Raises ArtifactRefused, and InvalidArgument for what is no photo at all (a number, a list).
    """
    for batch in _batches(model, photos):
        tensors = [tensor for tensor in batch if not isinstance(tensor, ImageError)]
        rows = iter(model.run(np.stack(tensors), [output])[output] if tensors else ())
        for tensor in batch:
            yield tensor if isinstance(tensor, ImageError) else next(rows)


def _batches(model: Model, photos: Iterable[ImageSource]) -> Iterator[list[Tensor | ImageError]]:
    def decode(photo: ImageSource) -> Tensor | ImageError:
        try:
            return to_tensor(photo, model.card.preprocessing)
        except ImageError as error:
            return error

    waiting = iter(photos)
    pool = ThreadPoolExecutor(min(MOST_DECODERS, model.session.threads), "decode")
    try:
        ahead: deque[Future[Tensor | ImageError]] = deque()
        while True:
            ahead.extend(pool.submit(decode, photo) for photo in islice(waiting, 2 * MAX_BATCH - len(ahead)))
            if not ahead:
                return
            yield [ahead.popleft().result() for _ in range(min(MAX_BATCH, len(ahead)))]
    finally:
        pool.shutdown(cancel_futures=True)
