"""Which photos a step sees: sets mixed by weight, in an order that depends only on seed and epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data.store import Photos
from train.errors import TrainError

Views = npt.NDArray[np.int64]
AHEAD = 2  # batches that are read before they are asked for


class Mixture:
    """Sets of photos as one. Photo `position` is shown as view `position + turn * len(self)` in turn 0, 1, ..."""

    def __init__(self, sets: Sequence[Photos]) -> None:
        self.sets = sets
        self.starts = np.cumsum([0, *map(len, sets)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, views: npt.ArrayLike) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 (B, side, side, 3), and width / height (B,) of the photos of these views."""
        at = np.asarray(views) % len(self)
        of = np.searchsorted(self.starts, at, side="right") - 1
        side = self.sets[0].pixels.shape[1]
        pixels = np.empty((len(at), side, side, 3), np.uint8)
        aspect = np.empty(len(at), np.float32)
        for number in np.unique(of):
            mine = np.flatnonzero(of == number)
            within = at[mine] - self.starts[number]
            pixels[mine], aspect[mine] = self.sets[number].pixels[within], self.sets[number].aspect[within]
        return torch.from_numpy(pixels), torch.from_numpy(aspect)

    def spread(self, most: int) -> Tensor:
        """At most so many photos, evenly spread over all sets: uint8 (N, side, side, 3)."""
        chosen = np.linspace(0, len(self) - 1, min(most, len(self)), dtype=int)
        return self.read(chosen)[0]


@dataclass(frozen=True)
class Epochs:
    """The order of views. An epoch takes `quotas[s]` photos of set s, each set in an endless row of permutations.

    sizes: of the sets. views: so many per photo, which then come again; None: each turn has a view of its own. The
    batches of an epoch are whole: what is left at its end is dropped.
    """

    sizes: tuple[int, ...]
    quotas: tuple[int, ...]
    batch: int
    seed: int
    views: int | None = None

    @classmethod
    def of(
        cls,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        batch: int,
        seed: int,
        photos: int | None = None,
        views: int | None = None,
    ) -> Epochs:
        """Each set once an epoch, times its weight; scaled to `photos` in all where given. Raises TrainError."""
        shares = np.array(sizes) * np.array(weights)
        if photos is not None:
            shares = shares * (photos / shares.sum())
        quotas = np.diff(np.round(np.cumsum([0.0, *shares])).astype(int))  # rounded so that their sum is right
        if quotas.sum() < batch:
            raise TrainError(
                f"an epoch of {quotas.sum()} photos holds no batch of {batch}; give more photos, or a smaller batch"
            )
        return cls(tuple(sizes), tuple(quotas.tolist()), batch, seed, views)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return sum(self.quotas) // self.batch

    def order(self, epoch: int) -> Views:
        """Views of photos of a `Mixture`, (steps * batch,), in epoch `epoch` (from 0)."""
        parts, total = [], sum(self.sizes)
        for number, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            first = epoch * quota
            for turn in range(first // size, -(-(first + quota) // size)):
                permuted = np.random.default_rng([self.seed, number, turn]).permutation(size)
                mine = permuted[max(0, first - turn * size) : first + quota - turn * size]
                view = turn if self.views is None else turn % self.views
                parts.append(mine + sum(self.sizes[:number]) + view * total)
        order = np.random.default_rng([self.seed, 1_000_003, epoch]).permutation(np.concatenate(parts))
        return order[: self.steps * self.batch]

    def pieces(
        self, epochs: int, first: int = 0, rank: int = 0, processes: int = 1, accumulate: int = 1
    ) -> Iterator[Views]:
        """The batches of steps `first`.. of a training of `epochs`, as process `rank` of several takes them.

        Each batch is cut into `processes` * `accumulate` equal pieces; a process takes `accumulate` of them, one after
        the other. So all processes together take the very batches that one process takes.
        """
        for epoch in range(first // self.steps, epochs):
            batches = self.order(epoch).reshape(self.steps, processes, accumulate, -1)
            for batch in batches[max(0, first - epoch * self.steps) :, rank]:
                yield from batch


Batch = tuple[Views, Tensor, Tensor]  # views, pixels and aspect ratios, as in `Mixture.read`


def read_ahead(photos: Mixture, pieces: Iterable[Views], *, pin: bool) -> Generator[Batch]:
    """The photos of each piece, read by a thread while earlier ones are in use; pixels are pinned for a GPU."""

    def read(views: Views) -> Batch:
        pixels, aspect = photos.read(views)
        return views, pixels.pin_memory() if pin else pixels, aspect

    with ThreadPoolExecutor(1) as reader:
        waiting: deque[Future[Batch]] = deque()
        for piece in pieces:
            waiting.append(reader.submit(read, piece))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
