"""Which photos a step sees: sets mixed by weight, in an order that depends on seed and epoch only."""

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

AHEAD = 2  # batches that are read before they are asked for


class Mixture:
    """Sets of photos as one, by position."""

    def __init__(self, sets: Sequence[Photos]) -> None:
        self.sets = sets
        self.starts = np.cumsum([0, *map(len, sets)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, positions: npt.ArrayLike) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 (B, side, side, 3), and width / height (B,) of the photos at these positions."""
        at = np.asarray(positions)
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
    """The order of photos. An epoch takes `quotas[s]` photos of set s, each set in an endless row of permutations.

    sizes: of the sets. The batches of an epoch are whole: what is left at its end is dropped.
    """

    sizes: tuple[int, ...]
    quotas: tuple[int, ...]
    batch: int
    seed: int

    @classmethod
    def of(
        cls, sizes: Sequence[int], weights: Sequence[float], *, batch: int, seed: int, photos: int | None = None
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
        return cls(tuple(sizes), tuple(quotas.tolist()), batch, seed)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return sum(self.quotas) // self.batch

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Positions in the mixture, (steps * batch,), of epoch `epoch` (from 0)."""
        parts = []
        for number, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            first, end = epoch * quota, (epoch + 1) * quota
            rounds = range(first // size, -(-end // size)) if quota else range(0)
            row = [np.random.default_rng([self.seed, number, turn]).permutation(size) for turn in rounds]
            if row:
                begin = first - rounds.start * size
                parts.append(np.concatenate(row)[begin : begin + quota] + sum(self.sizes[:number]))
        order = np.random.default_rng([self.seed, 1_000_003, epoch]).permutation(np.concatenate(parts))
        return order[: self.steps * self.batch]

    def pieces(
        self, epochs: int, first: int = 0, rank: int = 0, processes: int = 1, accumulate: int = 1
    ) -> Iterator[list[int]]:
        """The batches of steps `first`.. of a training of `epochs`, as process `rank` of several takes them.

        Each batch is cut into `processes` * `accumulate` equal pieces; a process takes `accumulate` of them, one after
        the other. So all processes together take the very batches that one process takes.
        """
        for epoch in range(first // self.steps, epochs):
            batches = self.order(epoch).reshape(self.steps, processes, accumulate, -1)
            for batch in batches[max(0, first - epoch * self.steps) :, rank]:
                yield from batch.tolist()


def read_ahead(photos: Mixture, pieces: Iterable[list[int]], *, pin: bool) -> Generator[tuple[Tensor, Tensor]]:
    """Pixels and aspect ratios of each piece, read by a thread while earlier ones are in use; pinned for a GPU."""

    def read(positions: list[int]) -> tuple[Tensor, Tensor]:
        pixels, aspect = photos.read(positions)
        return pixels.pin_memory() if pin else pixels, aspect

    with ThreadPoolExecutor(1) as reader:
        waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
        for piece in pieces:
            waiting.append(reader.submit(read, piece))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
