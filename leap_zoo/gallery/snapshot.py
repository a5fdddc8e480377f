"""One state of a gallery's folder: loading it, and searching it exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.errors import InvalidGallery, short
from leap_zoo.gallery import Hit, Item, Vectors
from leap_zoo.gallery.files import (
    Manifest,
    Rows,
    Segment,
    StoredItem,
    open_segment,
    parse_manifest,
    read_manifest,
)

BLOCK_BYTES = 32 * 1024 * 1024  # of vectors, or of scores, that are held at a time
SPARSE = 0.1  # below this share of wanted rows they are gathered before the product, else masked after it
ATTEMPTS = 100  # a reader that is overtaken by so many writers in a row is in trouble of another kind


class Nearest(NamedTuple):
    """Scores (Q, K) float32, best first, and positions (Q, K) among all rows; K is at most what was asked for."""

    scores: npt.NDArray[np.float32]
    positions: Rows


@dataclass(frozen=True)
class Snapshot:
    """One state of the gallery, which stays readable whatever is written meanwhile."""

    data: bytes  # of manifest.json
    manifest: Manifest
    segments: list[Segment]

    @property
    def rows(self) -> int:
        """All rows, deleted ones too. A position counts through the rows of all segments."""
        return sum(len(segment.items) for segment in self.segments)

    def live(self) -> Iterator[tuple[Segment, Rows]]:
        """Each segment with its rows that are not deleted."""
        for segment in self.segments:
            yield segment, np.flatnonzero(~segment.deleted)

    def at(self, position: int) -> tuple[Segment, int]:
        """The segment of a position, and the row in it."""
        for segment in self.segments:
            if position < len(segment.items):
                return segment, position
            position -= len(segment.items)
        raise IndexError(position)

    def hits(self, found: Nearest) -> list[list[Hit]]:
        """What was found, by name."""
        return [
            [self._hit(float(score), int(position)) for score, position in zip(scores, positions, strict=True)]
            for scores, positions in zip(found.scores, found.positions, strict=True)
        ]

    def _hit(self, score: float, position: int) -> Hit:
        segment, row = self.at(position)
        item = read_item(segment.items[row])
        return Hit(item.id, max(-1.0, min(1.0, score)), item.metadata)


def read_item(stored: StoredItem) -> Item:
    """An item with its metadata decoded."""
    return Item(stored.id, msgspec.json.decode(stored.metadata))


def load(folder: Path, known: Snapshot | None) -> Snapshot:
    """The newest state; what `known` has verified is not read again. Raises InvalidGallery.

    Between manifest and data a writer may replace both; then the newer manifest is read.
    """
    verified = {segment.entry.items.sha256: segment for segment in ([] if known is None else known.segments)}
    data, missing = b"", ""
    for _ in range(ATTEMPTS):
        newest = read_manifest(folder)
        if known is not None and newest == known.data:
            return known
        if newest == data:
            break  # nobody wrote since the last attempt
        data = newest
        manifest = parse_manifest(data, folder)
        try:
            segments = [
                open_segment(folder, entry, manifest.kind.dim, verified.get(entry.items.sha256))
                for entry in manifest.segments
            ]
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            continue
        if sum(segment.live for segment in segments) != manifest.count:
            raise InvalidGallery(f"the gallery {short(folder)} does not hold the {manifest.count} items that it names")
        return Snapshot(data, manifest, segments)
    raise InvalidGallery(
        f"{missing} of the gallery {short(folder)} is missing: restore its folder from a copy, or index the photos anew"
    )


def nearest(state: Snapshot, queries: Vectors, k: int, where: Mapping[str, object]) -> Nearest:
    """The k best live rows for unit queries (Q, D), block by block."""
    best = Nearest(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.intp))
    first = 0
    for segment in state.segments:
        wanted = ~segment.deleted
        for key, value in where.items():
            matching = np.zeros_like(wanted)
            matching[segment.where(key, value)] = True
            wanted &= matching
        for scores, rows in _products(segment, queries, wanted):
            best = best_of(best, Nearest(scores, np.broadcast_to(first + rows, scores.shape)), k)
        first += len(segment.items)
    return best


def best_of(one: Nearest, other: Nearest, k: int) -> Nearest:
    """The k best of two results, best first; equally near ones by position. What scored -inf is left out."""
    chosen = _top(other, k)
    scores = np.concatenate([one.scores, chosen.scores], axis=1)
    positions = np.concatenate([one.positions, chosen.positions], axis=1)
    order = np.lexsort((positions, -scores), axis=1)[:, :k]
    kept = Nearest(np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1))
    finite = int(np.isfinite(kept.scores[0]).sum()) if len(kept.scores) else 0  # the same rows are out for each query
    return Nearest(kept.scores[:, :finite], kept.positions[:, :finite])


def _top(found: Nearest, k: int) -> Nearest:
    width = found.scores.shape[1]
    if width <= k:
        return found
    order = np.argpartition(found.scores, width - k, axis=1)[:, width - k :]
    return Nearest(np.take_along_axis(found.scores, order, 1), np.take_along_axis(found.positions, order, 1))


def _products(
    segment: Segment, queries: Vectors, wanted: npt.NDArray[np.bool_]
) -> Iterator[tuple[npt.NDArray[np.float32], Rows]]:
    """Scores (Q, rows) of a segment's wanted rows, and which rows they are, a block at a time."""
    count = int(wanted.sum())
    if count == 0:
        return
    step = max(1, BLOCK_BYTES // (4 * max(len(queries), queries.shape[1])))
    if count < SPARSE * len(wanted):
        rows = np.flatnonzero(wanted)
        for start in range(0, count, step):
            part = rows[start : start + step]
            yield queries @ segment.vectors[part].T, part
        return
    for start in range(0, len(wanted), step):
        scores = queries @ segment.vectors[start : start + step].T
        out = ~wanted[start : start + step]
        if out.any():
            scores[:, out] = -np.inf
        yield scores, np.arange(start, start + scores.shape[1])
