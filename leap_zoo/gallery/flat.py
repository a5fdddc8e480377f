"""The default gallery: a folder, searched exactly, and consistent even if a writer is killed at any moment.

    manifest.json          the kind of vectors, and each segment's files with size and sha256; replaced atomically
    00000007-vectors.f32   float32, little-endian, row by row, each row of length 1
    00000007-items.jsonl   a line per row: {"id": ..., "metadata": {...}}
    00000009-deleted-2.u32 rows of segment 2 that are deleted, uint32, little-endian, ascending
    lock                   exists while a process writes

Data files are written once and never changed. A reader uses one manifest and the files that it names. A writer flushes
its new files to disk before it replaces the manifest, so a kill leaves either the old or the new state. The next writer
removes files that the manifest does not name.

An `add` writes one new segment and merges the smaller segments before it into it. So the number of segments, and the
number of times a row is rewritten, is at most the logarithm of the count. A `delete` writes a list of deleted rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Raw

from leap_zoo.card import FileName, Positive, Sha256, Strict
from leap_zoo.documents import parse, read_document
from leap_zoo.errors import InvalidGallery, short
from leap_zoo.files import failing_as, sync_folder, write_file
from leap_zoo.gallery import EXPORT_ROWS, Gallery, Hit, Item, Kind, Value, Vectors, Where, no_such_item, paged
from leap_zoo.locks import locked

MANIFEST, LOCK = "manifest.json", "lock"
MAX_ITEM_BYTES = 64 * 1024  # bytes of a line: an id, its metadata, and JSON's escapes
READ_BYTES = 4 * 1024 * 1024
BLOCK_BYTES = 8 * 1024 * 1024  # bytes of vectors, or of scores, in one matrix product
FEW = 0.25  # if fewer of a block's rows are wanted, copy them before multiplying
FEW_DEAD = 1000  # do not rewrite a segment for fewer deleted rows
MAX_COLUMNS = 64  # metadata names per segment whose rows are kept in memory
ATTEMPTS = 100  # to read files while writers replace them

_OURS = re.compile(r"\A([0-9]{8,}-(vectors\.f32|items\.jsonl|deleted-[0-9]+\.u32)|\.[0-9a-f]{16}\.tmp)\Z")
_REPAIR = "restore the gallery's folder from a backup, or index the photos again"

Mask = npt.NDArray[np.bool_]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Rows = npt.NDArray[np.intp]


class DataFile(Strict, frozen=True):
    """A file beside the manifest."""

    file: FileName
    bytes: Positive
    sha256: Sha256


class SegmentEntry(Strict, frozen=True):
    """A segment of `rows` rows: its vectors, its items, and its deleted rows (None: no row is deleted)."""

    rows: Annotated[Positive, msgspec.Meta(lt=2**32)]
    vectors: DataFile
    items: DataFile
    deleted: DataFile | None = None


class Manifest(Strict, frozen=True):
    """The `manifest.json`. `sha256` covers the document itself with that field empty."""

    kind: Kind
    generation: NotNegative = 0  # increases with every write
    count: NotNegative = 0
    segments: list[SegmentEntry] = msgspec.field(default_factory=list)
    dtype: Literal["float32"] = "float32"
    schema: Literal[1] = 1
    sha256: Sha256 | Literal[""] = ""

    def encode(self) -> bytes:
        """The bytes of the file."""
        digest = hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, sha256=""))).hexdigest()
        sealed = msgspec.json.encode(msgspec.structs.replace(self, sha256=digest))
        return msgspec.json.format(sealed, indent=1) + b"\n"

    def files(self) -> list[DataFile]:
        """All data files."""
        every = ((entry.vectors, entry.items, entry.deleted) for entry in self.segments)
        return [file for files in every for file in files if file is not None]


class StoredItem(Strict, frozen=True):
    """A line of an items file; metadata stays JSON until it is needed."""

    id: str
    metadata: Raw

    def item(self) -> Item:
        """The item with decoded metadata."""
        return Item(self.id, msgspec.json.decode(self.metadata))


@dataclass(frozen=True)
class Segment:
    """An open segment whose files match the manifest."""

    entry: SegmentEntry
    vectors: Vectors  # (rows, dim), mapped from the file
    items: list[StoredItem]
    deleted: Mask  # (rows,)
    row_of: dict[str, int]
    columns: dict[str, dict[tuple[type, object], Rows]] = field(default_factory=dict, repr=False)

    def live(self) -> Rows:
        """The rows that are not deleted."""
        return np.flatnonzero(~self.deleted)

    def wanted(self, where: Where) -> Mask:
        """Mask of the rows that are not deleted and whose metadata matches, including types."""
        mask = ~self.deleted
        for key, value in where.items():
            equal = np.zeros_like(mask)
            equal[self._column(key).get((type(value), value), [])] = True
            mask &= equal
            if not mask.any():
                break
        return mask

    def without(self, ids: Iterable[str]) -> Mask:
        """Mask of the deleted rows after the items with these ids are deleted too."""
        mask = self.deleted.copy()
        mask[[row for one in ids if (row := self.row_of.get(one)) is not None]] = True
        return mask

    def parts(self) -> Iterator[tuple[list[StoredItem], Vectors]]:
        """Items and vectors of the rows that are not deleted, EXPORT_ROWS at a time."""
        rows = self.live()
        for start in range(0, len(rows), EXPORT_ROWS):
            part = rows[start : start + EXPORT_ROWS]
            yield [self.items[row] for row in part], self.vectors[part]

    def _column(self, key: str) -> dict[tuple[type, object], Rows]:
        """The rows for each value of a metadata name. The first MAX_COLUMNS names are kept in memory."""
        if key in self.columns:
            return self.columns[key]
        found: dict[tuple[type, object], list[int]] = {}
        for row, item in enumerate(self.items if key in self.names else ()):
            fields = msgspec.json.decode(item.metadata)
            if key in fields:
                found.setdefault((type(fields[key]), fields[key]), []).append(row)
        column = {each: np.array(rows, np.intp) for each, rows in found.items()}
        if found and len(self.columns) < MAX_COLUMNS:
            self.columns[key] = column
        return column

    @cached_property
    def names(self) -> frozenset[str]:
        """All metadata names: a search for any other name can skip all rows."""
        return frozenset(name for item in self.items for name in msgspec.json.decode(item.metadata))


@dataclass(frozen=True)
class Snapshot:
    """One state of the gallery. It stays readable while others write."""

    manifest: Manifest
    segments: list[Segment]


class FlatGallery(Gallery):
    """A gallery in a folder. Every call sees the newest state, from any process; readers never wait for a writer."""

    def __init__(self, folder: Path, kind: Kind | None = None) -> None:
        """Open the gallery in `folder`, or create one of `kind` if there is none (None: InvalidGallery)."""
        self.folder = folder
        if kind is not None and not os.path.lexists(folder / MANIFEST):
            _create(folder, kind)
        self._snapshot = _load(folder, None)
        self.kind = self._snapshot.manifest.kind

    def snapshot(self) -> Snapshot:
        """The newest state. Raises InvalidGallery if a file is damaged."""
        newest = _load(self.folder, self._snapshot)
        if newest.manifest.kind != self.kind:
            raise InvalidGallery(f"the gallery {short(self.folder)} was replaced by one of another kind: open it again")
        self._snapshot = newest
        return newest

    def count(self) -> int:
        """How many items there are."""
        return self.snapshot().manifest.count

    def items(self, offset: int = 0, limit: int | None = None, *, after: str | None = None) -> list[Item]:
        """Items in the order in which they were added or last replaced."""
        stored = (segment.items[row] for segment in self.snapshot().segments for row in segment.live())
        if after is not None and not any(one.id == after for one in stored):  # moves on to the items after it
            raise no_such_item(after)
        return paged((item.item() for item in stored), offset, limit)

    def export(self) -> Iterator[tuple[list[str], Vectors, list[dict[str, Value]]]]:
        """Export one state in batches, unaffected by concurrent writes."""
        for segment in self.snapshot().segments:
            for stored, vectors in segment.parts():
                items = [item.item() for item in stored]
                yield [item.id for item in items], vectors, [item.metadata for item in items]

    def discard_if_empty(self) -> None:
        """See `Gallery`. Waits for concurrent writers."""
        with _writing(self.folder):
            if self.count():
                return
            (self.folder / MANIFEST).unlink()
        with contextlib.suppress(OSError):  # the folder has other files, or another process started a gallery
            self.folder.rmdir()

    def _add(self, ids: list[str], rows: Vectors, metadata: list[dict[str, Value]]) -> None:
        """Add items at the cost of a few disk flushes, regardless of the gallery's size."""
        encode = msgspec.json.Encoder().encode
        items = [StoredItem(id=name, metadata=Raw(encode(one))) for name, one in zip(ids, metadata, strict=True)]
        with _writing(self.folder):
            self._commit(self.snapshot(), ids, items, rows)

    def _delete(self, ids: list[str]) -> int:
        with _writing(self.folder):
            state = self.snapshot()
            return state.manifest.count - self._commit(state, ids, [], np.empty((0, self.kind.dim), np.float32))

    def _search(self, queries: Vectors, k: int, where: Where) -> list[list[Hit]]:
        """Exact search: every vector is compared."""
        segments = self.snapshot().segments
        scores, numbers, rows = _nearest(segments, queries, k, where)
        return [
            [
                Hit(item.id, max(-1.0, min(1.0, float(score))), item.metadata)
                for score, number, row in zip(*one, strict=True)
                for item in [segments[number].items[row].item()]
            ]
            for one in zip(scores, numbers, rows, strict=True)
        ]

    def _commit(self, state: Snapshot, gone: list[str], items: list[StoredItem], rows: Vectors) -> int:
        """Write the state without the items `gone` and with the new ones at the end; returns its count.

        The caller holds the lock.
        """
        masks = [segment.without(gone) for segment in state.segments]
        live = [int((~mask).sum()) for mask in masks]
        count, dead = sum(live) + len(items), sum(int(mask.sum()) for mask in masks)
        if count == state.manifest.count and not items:
            return count
        everything = dead > max(FEW_DEAD, count)
        first, taken = len(live), len(items)  # merge the segments from `first` on with the new rows
        while first and (everything or live[first - 1] == 0 or (items and live[first - 1] <= taken)):
            first -= 1
            taken += live[first]
        generation = state.manifest.generation + 1
        try:
            entries = [
                self._marked(state.segments[at], masks[at], f"{generation:08d}-deleted-{at}.u32")
                for at in range(first)
                if live[at]
            ]
            if taken:
                merged = [replace(state.segments[at], deleted=masks[at]) for at in range(first, len(live))]
                entries.append(self._written(merged, items, rows, taken, f"{generation:08d}"))
        except BaseException:
            _sweep(self.folder, state.manifest)  # free the space on a full disk
            raise
        manifest = Manifest(kind=self.kind, generation=generation, count=count, segments=entries)
        _write_manifest(self.folder, manifest)
        _sweep(self.folder, manifest)
        return count

    def _marked(self, segment: Segment, mask: Mask, name: str) -> SegmentEntry:
        if np.array_equal(mask, segment.deleted):
            return segment.entry
        rows = np.flatnonzero(mask).astype("<u4")
        return msgspec.structs.replace(segment.entry, deleted=_write(self.folder, name, [rows.tobytes()]))

    def _written(
        self, merged: list[Segment], items: list[StoredItem], rows: Vectors, count: int, name: str
    ) -> SegmentEntry:
        def parts() -> Iterator[tuple[list[StoredItem], Vectors]]:
            for segment in merged:
                yield from segment.parts()
            yield items, rows

        encode = msgspec.json.Encoder().encode_lines
        return SegmentEntry(
            rows=count,
            vectors=_write(self.folder, f"{name}-vectors.f32", (part.astype("<f4").tobytes() for _, part in parts())),
            items=_write(self.folder, f"{name}-items.jsonl", (encode(part) for part, _ in parts())),
        )


def read_manifest(folder: Path) -> Manifest:
    """Read a gallery's kind and file list, without opening the files. Raises InvalidGallery."""
    path = folder / MANIFEST
    fix = "check the path, or create one with leap-zoo index"
    with failing_as(InvalidGallery, f"no gallery can be read in {short(folder)}", fix):
        data = read_document(path)
    manifest = parse(data, Manifest, short(path), InvalidGallery, _REPAIR)
    if manifest.encode() != data:
        raise InvalidGallery(f"{short(path)} was changed after it was written: {_REPAIR}")
    return manifest


def _nearest(
    segments: Sequence[Segment], queries: Vectors, k: int, where: Where
) -> tuple[npt.NDArray[np.float32], Rows, Rows]:
    """The k best rows for unit queries (Q, D): scores, segment numbers and rows; each (Q, K), K <= k, best first.

    Ties are ordered by position. From each block of scores, only rows above the k-th best so far are kept.
    """
    best = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.intp)  # row numbers over all segments
    worst: Any = np.float32(-np.inf)  # (Q, 1): the worst of the k best so far
    step = max(1, BLOCK_BYTES // (4 * max(len(queries), queries.shape[1])))
    ends = np.cumsum([0, *(len(segment.items) for segment in segments)])
    for segment, first in zip(segments, ends, strict=False):
        mask = segment.wanted(where)
        for start in range(0, len(mask), step):
            block = segment.vectors[start : start + step]
            rows = np.flatnonzero(mask[start : start + step])
            few = len(rows) < FEW * len(block)  # skip the others in the product
            scores = queries @ block[rows].T if few else (queries @ block.T)[:, rows]
            near = np.flatnonzero((scores > worst).any(axis=0))
            if not len(near):
                continue
            found = first + start + rows[near]
            best = np.concatenate([best, scores[:, near]], axis=1)
            places = np.concatenate([places, np.broadcast_to(found, (len(queries), len(found)))], axis=1)
            if best.shape[1] >= k:
                order = np.argpartition(best, -k, axis=1)[:, -k:]
                best, places = np.take_along_axis(best, order, 1), np.take_along_axis(places, order, 1)
                worst = best.min(axis=1, keepdims=True)
    order = np.lexsort((places, -best), axis=1)
    best, places = np.take_along_axis(best, order, 1), np.take_along_axis(places, order, 1)
    numbers = np.searchsorted(ends, places, "right") - 1
    return best, numbers, places - ends[numbers]


def _create(folder: Path, kind: Kind) -> None:
    with _writing(folder):
        if (folder / MANIFEST).is_file():
            return  # another process was first
        others = [path.name for path in folder.iterdir() if path.name != LOCK and not _OURS.match(path.name)]
        if others:
            raise InvalidGallery(
                f"{short(folder)} is not a gallery and not empty (it contains {short(others[0])}): give a new folder"
            )
        _write_manifest(folder, Manifest(kind=kind))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, after waiting for other writers in this and other processes. Raises InvalidGallery."""
    fix = "free some space, make it writable, or give another folder"
    with failing_as(InvalidGallery, f"the gallery {short(folder)} cannot be written", fix):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            yield


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest after the files that it names are on disk."""
    sync_folder(folder)
    write_file(folder / MANIFEST, manifest.encode())
    sync_folder(folder)


def _write(folder: Path, name: str, parts: Iterable[bytes]) -> DataFile:
    """Write a file and flush it to disk."""
    digest, size = hashlib.sha256(), 0
    with (folder / name).open("wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return DataFile(file=name, bytes=size, sha256=digest.hexdigest())


def _sweep(folder: Path, manifest: Manifest) -> None:
    """Remove data files that the manifest does not name: replaced ones, and the remains of a killed writer."""
    named = {file.file for file in manifest.files()}
    for name in os.listdir(folder):
        if _OURS.match(name) and name not in named:
            with contextlib.suppress(OSError):  # Windows does not remove a file that a reader has mapped
                os.unlink(folder / name)


def _load(folder: Path, known: Snapshot | None) -> Snapshot:
    """Load the newest state; files that `known` has verified are not read again. Raises InvalidGallery.

    A writer may replace the manifest and its files while they are being read; then the newer manifest is used.
    """
    verified = {(one.entry.vectors, one.entry.items): one for one in (known.segments if known else [])}
    manifest = None
    for _ in range(ATTEMPTS):
        before, manifest = manifest, read_manifest(folder)
        if known is not None and manifest == known.manifest:
            return known
        try:
            segments = [
                _open(folder, entry, manifest.kind.dim, verified.get((entry.vectors, entry.items)))
                for entry in manifest.segments
            ]
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            if manifest == before:
                break  # no process wrote since the last attempt
            continue
        except OSError as error:
            raise InvalidGallery(
                f"the gallery {short(folder)} cannot be read ({error}): check its permissions"
            ) from error
        if sum(int((~segment.deleted).sum()) for segment in segments) != manifest.count:
            raise InvalidGallery(f"the gallery {short(folder)} does not contain {manifest.count} items: {_REPAIR}")
        return Snapshot(manifest, segments)
    raise InvalidGallery(f"{missing} of the gallery {short(folder)} is missing: {_REPAIR}")


def _open(folder: Path, entry: SegmentEntry, dim: int, known: Segment | None) -> Segment:
    """Open and verify a segment's files; reuse those that `known` has already opened.

    Raises InvalidGallery if a file does not match the manifest; FileNotFoundError.
    """
    deleted = np.zeros(entry.rows, np.bool_)
    if entry.deleted is not None:
        rows = _mapped(folder, entry.deleted, range(4, 4 * entry.rows + 1, 4)).view("<u4")
        if rows[-1] >= entry.rows or not (np.diff(rows.astype(np.int64)) > 0).all():
            raise _damaged(folder, entry.deleted, "it lists rows that the segment does not have")
        deleted[rows] = True
    if known is not None:
        return Segment(entry, known.vectors, known.items, deleted, known.row_of)
    lines = _mapped(folder, entry.items, range(MAX_ITEM_BYTES * entry.rows + 1)).tobytes()
    try:
        items = msgspec.json.Decoder(StoredItem).decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(folder, entry.items, str(error)) from error
    row_of = {item.id: row for row, item in enumerate(items)}
    if len(items) != entry.rows or len(row_of) != entry.rows:
        raise _damaged(folder, entry.items, f"it does not have {entry.rows} distinct items")
    size = 4 * dim * entry.rows
    vectors = _mapped(folder, entry.vectors, range(size, size + 1)).view("<f4").reshape(entry.rows, dim)
    return Segment(entry, vectors, items, deleted, row_of)


def _mapped(folder: Path, file: DataFile, sizes: range) -> npt.NDArray[np.uint8]:
    """The bytes of a file, checked against the manifest; memory-mapped."""
    path = folder / file.file
    if file.bytes not in sizes or path.stat().st_size != file.bytes:
        raise _damaged(folder, file, "its size is not the manifest's")
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    digest = hashlib.sha256()
    for start in range(0, len(mapped), READ_BYTES):
        digest.update(mapped[start : start + READ_BYTES].data)
    if digest.hexdigest() != file.sha256:
        raise _damaged(folder, file, "its sha256 is not the manifest's")
    return mapped


def _damaged(folder: Path, file: DataFile, why: str) -> InvalidGallery:
    return InvalidGallery(f"{file.file} of the gallery {short(folder)} is damaged ({why}): {_REPAIR}")
