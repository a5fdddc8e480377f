"""Faiss over a gallery's folder: for hundreds of thousands of photos and more; extra `faiss`.

The flat gallery stays what is true. Beside it, in `faiss/`, lies an index of its rows: 8 bits per value (SQ8), or a
graph over those (HNSW) from half a million rows. The index proposes more candidates than were asked for; their scores
are computed from the flat vectors. Rows that came after the index was built are searched exactly, deleted ones are left
out, and when either are many, the index is built again by the next search. Searches with conditions are exact.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.card import File, Positive, Sha256
from leap_zoo.errors import MissingExtra
from leap_zoo.gallery import Gallery, Hit, Item, Metadata, Value, Vectors, Where, checked_query, unit_rows
from leap_zoo.gallery.files import Rows, Segment
from leap_zoo.gallery.flat import FlatGallery
from leap_zoo.gallery.snapshot import Nearest, Snapshot, best_of, nearest

FOLDER, CACHE = "faiss", "cache.json"
INDEX_FROM = 20_000  # rows; below it an exact search is as fast
HNSW_FROM = 500_000  # rows; below it SQ8 is fast enough, and built in seconds
STALE = 0.1  # share of rows that the index does not know, or that are gone
LINKS, BUILD_WIDTH = 32, 80  # of HNSW
CANDIDATES, FEWEST = 4, 64  # times k that the index proposes, and at least
MAX_CACHE_BYTES = 64 * 1024

_Method = Literal["sq8", "hnsw"]


class _Indexed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A segment in the index: its rows follow those of the segment before it."""

    vectors: Sha256
    items: Sha256
    rows: Positive

    @classmethod
    def of(cls, segment: Segment) -> _Indexed:
        """That segment."""
        entry = segment.entry
        return cls(vectors=entry.vectors.sha256, items=entry.items.sha256, rows=entry.rows)


class _Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`faiss/cache.json`: the index file, and whose rows it has."""

    method: _Method
    index: File
    segments: Annotated[list[_Indexed], msgspec.Meta(min_length=1)]
    schema: Literal[1] = 1


@dataclass(frozen=True)
class _Index:
    """An index in memory. `faiss` is its own object."""

    faiss: Any
    method: _Method
    segments: list[_Indexed]

    def positions(self, state: Snapshot) -> Rows:
        """For each row of the index, its position in the gallery; -1 where it is deleted or gone."""
        first, of = 0, {}
        for segment in state.segments:
            here = np.arange(first, first + len(segment.items))
            of[_Indexed.of(segment)] = np.where(segment.deleted, -1, here)
            first += len(segment.items)
        return np.concatenate([of.get(each, np.full(each.rows, -1)) for each in self.segments])


@dataclass(frozen=True)
class _Served:
    """An index as it serves one state (`data`: its manifest): where its rows are, and how many are still there."""

    data: bytes
    index: _Index
    positions: Rows
    alive: int


class FaissGallery(Gallery):
    """A flat gallery whose unconditional searches go through a faiss index. Raises MissingExtra."""

    def __init__(self, flat: FlatGallery, *, index_from: int = INDEX_FROM, hnsw_from: int = HNSW_FROM) -> None:
        """index_from, hnsw_from: from how many rows on there is an index, and it is HNSW."""
        self.flat = flat
        self.kind = flat.kind
        self.index_from, self.hnsw_from = index_from, hnsw_from
        self._faiss = _import_faiss()
        self._building = threading.Lock()
        self._served: _Served | None = None

    def add(self, ids: Sequence[str], vectors: npt.ArrayLike, metadata: Sequence[Metadata] | None = None) -> None:
        """See `Gallery.add`."""
        self._refuse_if_read_only()
        self.flat.add(ids, vectors, metadata)

    def delete(self, ids: Sequence[str]) -> int:
        """See `Gallery.delete`."""
        self._refuse_if_read_only()
        return self.flat.delete(ids)

    def search(self, vectors: npt.ArrayLike, k: int = 10, where: Where | None = None) -> list[list[Hit]]:
        """See `Gallery.search`. Approximate: a neighbour may be missed; scores are exact."""
        conditions = checked_query(k, where)
        queries = unit_rows(vectors, self.kind.dim)
        state = self.flat.snapshot()
        if conditions or state.rows < self.index_from or not len(queries) or not state.manifest.count:
            return state.hits(nearest(state, queries, k, conditions))
        with self._building:
            served = self._current(state)
        found = self._candidates(state, served, queries, k)
        if not np.isfinite(found.scores).all():  # too many of the proposed are deleted
            return state.hits(nearest(state, queries, k, {}))
        first, known = 0, set(served.index.segments)
        for segment in state.segments:
            if _Indexed.of(segment) not in known:
                exact = nearest(replace(state, segments=[segment]), queries, k, {})
                found = best_of(found, Nearest(exact.scores, exact.positions + first), k)
            first += len(segment.items)
        return state.hits(found)

    def count(self) -> int:
        """See `Gallery.count`."""
        return self.flat.count()

    def items(self, offset: int = 0, limit: int | None = None) -> list[Item]:
        """See `Gallery.items`."""
        return self.flat.items(offset, limit)

    def export(self) -> Iterator[tuple[list[str], Vectors, list[dict[str, Value]]]]:
        """See `Gallery.export`."""
        return self.flat.export()

    def _candidates(self, state: Snapshot, served: _Served, queries: Vectors, k: int) -> Nearest:
        """What the index proposes, scored with the gallery's own vectors. Those that are gone score -inf."""
        index = served.index
        wanted = min(len(served.positions), max(FEWEST, CANDIDATES * k))
        parameters = self._faiss.SearchParametersHNSW(efSearch=2 * wanted) if index.method == "hnsw" else None
        _, rows = index.faiss.search(queries, wanted, params=parameters)
        found = np.where(rows >= 0, served.positions[rows], -1)  # (Q, wanted)
        scores = np.full(found.shape, -np.inf, np.float32)
        first = 0
        for segment in state.segments:
            query, rank = np.nonzero((found >= first) & (found < first + len(segment.items)))
            near = segment.vectors[found[query, rank] - first]
            scores[query, rank] = np.einsum("nd,nd->n", queries[query], near)
            first += len(segment.items)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, served.alive)]
        return Nearest(np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1))

    def _current(self, state: Snapshot) -> _Served:
        """An index that knows nearly all of this state: the one in memory, the one on the disk, or a new one."""
        served = self._served
        if served is not None and served.data == state.data:
            return served
        index = None if served is None else served.index
        if index is None or not self._serves(index, state):
            index = _read(self.flat.folder / FOLDER, self._faiss)
        if index is None or not self._serves(index, state):
            index = self._build(state)
            _write(self.flat.folder / FOLDER, index, self._faiss)
        positions = index.positions(state)
        self._served = _Served(state.data, index, positions, int((positions >= 0).sum()))
        return self._served

    def _serves(self, index: _Index, state: Snapshot) -> bool:
        if index.faiss.d != self.kind.dim or index.faiss.ntotal != sum(each.rows for each in index.segments):
            return False
        alive = int((index.positions(state) >= 0).sum())
        return (
            index.method == self._method(state)
            and index.faiss.ntotal - alive <= STALE * index.faiss.ntotal
            and state.manifest.count - alive <= STALE * state.manifest.count
        )

    def _method(self, state: Snapshot) -> _Method:
        return "hnsw" if state.rows >= self.hnsw_from else "sq8"

    def _build(self, state: Snapshot) -> _Index:
        faiss, dim = self._faiss, self.kind.dim
        bits, metric = faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        method = self._method(state)
        if method == "hnsw":
            made = faiss.IndexHNSWSQ(dim, bits, LINKS, metric)
            made.hnsw.efConstruction = BUILD_WIDTH
        else:
            made = faiss.IndexScalarQuantizer(dim, bits, metric)
        made.train(max(state.segments, key=lambda segment: len(segment.items)).vectors)
        for segment in state.segments:
            made.add(segment.vectors)
        return _Index(made, method, [_Indexed.of(segment) for segment in state.segments])


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("the engine faiss is not installed: pip install 'leap-zoo[faiss]'") from error
    return faiss


def _read(folder: Path, faiss: Any) -> _Index | None:
    """The index on the disk; None when there is none that is whole.

    Faiss trusts the bytes that it reads, so they are read by us, bounded, and their digest is compared first.
    """
    try:
        with (folder / CACHE).open("rb") as file:
            cache = msgspec.json.decode(file.read(MAX_CACHE_BYTES), type=_Cache)
        with (folder / cache.index.file).open("rb") as file:
            data = file.read(cache.index.bytes + 1)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if len(data) != cache.index.bytes or hashlib.sha256(data).hexdigest() != cache.index.sha256:
        return None
    try:
        made = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except RuntimeError:  # written by another version of faiss
        return None
    return _Index(made, cache.method, cache.segments)


def _write(folder: Path, index: _Index, faiss: Any) -> None:
    """Keep the index for the next process. It is a cache: where it cannot be written, it is built again."""
    data = faiss.serialize_index(index.faiss).tobytes()
    digest = hashlib.sha256(data).hexdigest()
    name = f"{digest[:16]}.faiss"
    cache = _Cache(method=index.method, index=File(file=name, bytes=len(data), sha256=digest), segments=index.segments)
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        _replace(folder / name, data)
        _replace(folder / CACHE, msgspec.json.encode(cache))
        for old in folder.glob("*.faiss"):
            if old.name != name:
                old.unlink()


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
