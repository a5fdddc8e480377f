"""The default gallery: a folder, searched exactly, whole after a kill at any moment.

    manifest.json          what the vectors are, and per segment its files with size and sha256; replaced atomically
    00000007-vectors.f32   float32, little-endian, row by row, each row of length 1
    00000007-items.jsonl   a line per row: {"id": ..., "metadata": {...}}
    00000009-deleted-2.u32 rows of segment 2 that are deleted, uint32, little-endian, ascending
    lock                   while a process writes

Data files are written once and never changed. A reader sees one manifest and the files that it names. A writer flushes
its new files to the disk and only then replaces the manifest, so a kill leaves the state before or the state after.
Files that the manifest does not name are removed by the next writer.

An `add` writes one new segment and merges the smaller segments before it into it: there are never more segments than
the logarithm of the count, and no row is rewritten more often. A `delete` writes which rows of a segment are deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.card import FileName, Positive, Sha256
from leap_zoo.errors import InvalidGallery, short
from leap_zoo.files import read_regular, sync_folder
from leap_zoo.gallery import EXPORT_ROWS, Gallery, Hit, Item, Kind, Value, Vectors, Where, no_such_item
from leap_zoo.locks import locked

SCHEMA: Final = 1
MANIFEST, LOCK = "manifest.json", "lock"
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_ITEM_BYTES = 64 * 1024  # of a line: an id, its metadata, and what JSON escapes
READ_BYTES = 4 * 1024 * 1024
BLOCK_BYTES = 8 * 1024 * 1024  # of vectors, or of scores, in one product
FEW = 0.25  # of a block's rows, below which these are taken out of it first
FEW_DEAD = 1000  # this many deleted rows are no reason to rewrite everything
MAX_COLUMNS = 64  # names of metadata whose rows stay in memory, per segment
ATTEMPTS = 100  # at reading, while writers replace what the manifest named

_OURS = re.compile(r"\A([0-9]{8,}-(vectors\.f32|items\.jsonl|deleted-[0-9]+\.u32)|\.manifest\.json\.new)\Z")
_REPAIR = "restore the gallery's folder from a copy, or index the photos anew"

Mask = npt.NDArray[np.bool_]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Rows = npt.NDArray[np.intp]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class DataFile(_Strict, frozen=True):
    """A file beside the manifest."""

    file: FileName
    bytes: Positive
    sha256: Sha256


class SegmentEntry(_Strict, frozen=True):
    """A segment of `rows` rows: its vectors, its items, and which of its rows are deleted (None: none)."""

    rows: Annotated[Positive, msgspec.Meta(lt=2**32)]
    vectors: DataFile
    items: DataFile
    deleted: DataFile | None = None


class Manifest(_Strict, frozen=True):
    """The `manifest.json`. `sha256` is of the document itself with that field empty."""

    kind: Kind
    generation: NotNegative = 0  # one more with every write
    count: NotNegative = 0
    segments: list[SegmentEntry] = []
    dtype: Literal["float32"] = "float32"
    schema: Literal[1] = SCHEMA
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


class _Version(msgspec.Struct):
    schema: int = SCHEMA


class StoredItem(_Strict, frozen=True):
    """A line of an items file; metadata stay JSON until they are asked for."""

    id: str
    metadata: msgspec.Raw

    def item(self) -> Item:
        """With its metadata decoded."""
        return Item(self.id, msgspec.json.decode(self.metadata))


@dataclass(frozen=True)
class Segment:
    """A segment whose files were found to be what the manifest says."""

    entry: SegmentEntry
    vectors: Vectors  # (rows, dim), mapped from the file
    items: list[StoredItem]
    deleted: Mask  # (rows,)
    row_of: dict[str, int] = field(default_factory=dict, repr=False)
    columns: dict[str, dict[tuple[type, object], Rows]] = field(default_factory=dict, repr=False)

    def live(self) -> Rows:
        """The rows that are not deleted."""
        return np.flatnonzero(~self.deleted)

    def wanted(self, where: Where) -> Mask:
        """Which rows are not deleted and have these metadata, equal in type too."""
        mask = ~self.deleted
        for key, value in where.items():
            equal = np.zeros_like(mask)
            equal[self._column(key).get((type(value), value), [])] = True
            mask &= equal
            if not mask.any():
                break
        return mask

    def without(self, ids: Iterable[str]) -> Mask:
        """Which rows are deleted once the items of these ids are deleted too."""
        mask = self.deleted.copy()
        mask[[row for one in ids if (row := self.row_of.get(one)) is not None]] = True
        return mask

    def parts(self) -> Iterator[tuple[list[StoredItem], Vectors]]:
        """Items and vectors of the rows that are not deleted, EXPORT_ROWS rows at a time."""
        rows = self.live()
        for start in range(0, len(rows), EXPORT_ROWS):
            part = rows[start : start + EXPORT_ROWS]
            yield [self.items[row] for row in part], self.vectors[part]

    def _column(self, key: str) -> dict[tuple[type, object], Rows]:
        """Which rows have each value under a name. The first MAX_COLUMNS names stay in memory."""
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
        """All names of metadata: a search for another one looks at no row."""
        return frozenset(name for item in self.items for name in msgspec.json.decode(item.metadata))


@dataclass(frozen=True)
class Snapshot:
    """One state of the gallery, which stays readable whatever is written meanwhile."""

    manifest: Manifest
    segments: list[Segment]


class FlatGallery(Gallery):
    """A gallery in a folder. Every call sees the newest state, whoever wrote it; reading never waits for a writer."""

    def __init__(self, folder: Path, kind: Kind | None = None) -> None:
        """Open the gallery in `folder`, or make one of `kind` when there is none (None: InvalidGallery)."""
        self.folder = folder
        if kind is not None and not os.path.lexists(folder / MANIFEST):
            _create(folder, kind)
        self._snapshot = _load(folder, None)
        self.kind = self._snapshot.manifest.kind

    def snapshot(self) -> Snapshot:
        """The newest state. Raises InvalidGallery when a file is damaged."""
        newest = _load(self.folder, self._snapshot)
        if newest.manifest.kind != self.kind:
            raise InvalidGallery(f"the gallery {short(self.folder)} was replaced by one of another kind: open it anew")
        self._snapshot = newest
        return newest

    def count(self) -> int:
        """How many items there are."""
        return self.snapshot().manifest.count

    def items(self, offset: int = 0, limit: int | None = None, *, after: str | None = None) -> list[Item]:
        """Items in the order in which they were added or last replaced."""
        stored = (segment.items[row] for segment in self.snapshot().segments for row in segment.live())
        if after is not None and not any(one.id == after for one in stored):  # which leaves the ones behind it
            raise no_such_item(after)
        return [item.item() for item in islice(stored, offset, None if limit is None else offset + limit)]

    def export(self) -> Iterator[tuple[list[str], Vectors, list[dict[str, Value]]]]:
        """One state in batches, whatever is written meanwhile."""
        for segment in self.snapshot().segments:
            for stored, vectors in segment.parts():
                items = [item.item() for item in stored]
                yield [item.id for item in items], vectors, [item.metadata for item in items]

    def discard_if_empty(self) -> None:
        """See `Gallery`. Whoever writes to it at the same time is waited for."""
        with _writing(self.folder):
            if self.count():
                return
            (self.folder / MANIFEST).unlink()
        with contextlib.suppress(OSError):  # it holds other things, or somebody else has begun a gallery
            self.folder.rmdir()

    def _add(self, ids: list[str], rows: Vectors, metadata: list[dict[str, Value]]) -> None:
        """Costs a few flushes to the disk, however large the gallery."""
        encode = msgspec.json.Encoder().encode
        items = [
            StoredItem(id=name, metadata=msgspec.Raw(encode(one))) for name, one in zip(ids, metadata, strict=True)
        ]
        with _writing(self.folder):
            self._commit(self.snapshot(), ids, items, rows)

    def _delete(self, ids: list[str]) -> int:
        with _writing(self.folder):
            state = self.snapshot()
            return state.manifest.count - self._commit(state, ids, [], np.empty((0, self.kind.dim), np.float32))

    def _search(self, queries: Vectors, k: int, where: Where) -> list[list[Hit]]:
        """Exact: every vector is looked at."""
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
        """Make the state durable that lacks the items `gone` and ends with the new ones; returns its count.

        The caller holds the lock.
        """
        masks = [segment.without(gone) for segment in state.segments]
        live = [int((~mask).sum()) for mask in masks]
        count, dead = sum(live) + len(items), sum(int(mask.sum()) for mask in masks)
        if count == state.manifest.count and not items:
            return count
        everything = dead > max(FEW_DEAD, count)
        first, taken = len(live), len(items)  # segments from `first` on are merged with the new rows
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
            _sweep(self.folder, state.manifest)  # a full disk gets its room back
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
    """What a gallery is and which files it has, without opening them. Raises InvalidGallery."""
    path = folder / MANIFEST
    try:
        data = read_regular(path, MAX_MANIFEST_BYTES)
        version = msgspec.json.decode(data, type=_Version).schema
        if version > SCHEMA:
            raise InvalidGallery(
                f"{short(path)} has schema {version}, this leap-zoo reads {SCHEMA}: pip install -U leap-zoo"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except OSError as error:
        raise InvalidGallery(
            f"{short(folder)} is not a gallery ({MANIFEST}: {error.strerror}): make one with leap-zoo index"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidGallery(f"{short(path)} is not a gallery's manifest ({error}): {_REPAIR}") from error
    if manifest.encode() != data:
        raise InvalidGallery(f"{short(path)} is not as it was written: {_REPAIR}")
    return manifest


def _nearest(
    segments: Sequence[Segment], queries: Vectors, k: int, where: Where
) -> tuple[npt.NDArray[np.float32], Rows, Rows]:
    """Of the k best rows for unit queries (Q, D): scores, numbers of segments, rows; each (Q, K), K <= k, best first.

    Of equally near ones the earlier come first. Only rows above the k-th best so far are kept from a block of scores.
    """
    best = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.intp)  # rows, counted through all segments
    worst: Any = np.float32(-np.inf)  # (Q, 1): of the k best so far
    step = max(1, BLOCK_BYTES // (4 * max(len(queries), queries.shape[1])))
    ends = np.cumsum([0, *(len(segment.items) for segment in segments)])
    for segment, first in zip(segments, ends, strict=False):
        mask = segment.wanted(where)
        for start in range(0, len(mask), step):
            block = segment.vectors[start : start + step]
            rows = np.flatnonzero(mask[start : start + step])
            few = len(rows) < FEW * len(block)  # then the others are not multiplied
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
            return  # somebody else was first
        others = [path.name for path in folder.iterdir() if path.name != LOCK and not _OURS.match(path.name)]
        if others:
            raise InvalidGallery(
                f"{short(folder)} is not a gallery and not empty (it holds {short(others[0])}): give a new folder"
            )
        _write_manifest(folder, Manifest(kind=kind))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, waiting for other writers, of this and of other processes. Raises InvalidGallery."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            yield
    except OSError as error:
        raise InvalidGallery(
            f"the gallery {short(folder)} cannot be written ({error.strerror}): free some space, allow writing there, "
            "or give another folder"
        ) from error


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest once the files that it names are on the disk."""
    _write(folder, f".{MANIFEST}.new", [manifest.encode()])
    sync_folder(folder)
    os.replace(folder / f".{MANIFEST}.new", folder / MANIFEST)
    sync_folder(folder)


def _write(folder: Path, name: str, parts: Iterable[bytes]) -> DataFile:
    """Write a file and flush it to the disk."""
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
    """Remove data files that the manifest does not name: replaced ones, and those of a writer that was killed."""
    named = {file.file for file in manifest.files()}
    for name in os.listdir(folder):
        if _OURS.match(name) and name not in named:
            with contextlib.suppress(OSError):  # Windows does not remove a file that a reader has mapped
                os.unlink(folder / name)


def _load(folder: Path, known: Snapshot | None) -> Snapshot:
    """The newest state; what `known` has verified is not read again. Raises InvalidGallery.

    Between reading the manifest and its files a writer may replace both; then the newer manifest is read.
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
                break  # nobody wrote since the last attempt
            continue
        except OSError as error:
            raise InvalidGallery(
                f"the gallery {short(folder)} cannot be read ({error}): allow reading there"
            ) from error
        if sum(int((~segment.deleted).sum()) for segment in segments) != manifest.count:
            raise InvalidGallery(f"the gallery {short(folder)} does not hold {manifest.count} items: {_REPAIR}")
        return Snapshot(manifest, segments)
    raise InvalidGallery(f"{missing} of the gallery {short(folder)} is missing: {_REPAIR}")


def _open(folder: Path, entry: SegmentEntry, dim: int, known: Segment | None) -> Segment:
    """Open and verify a segment's files; those that `known` has open already are taken from it.

    Raises InvalidGallery when a file is not what the manifest says; FileNotFoundError.
    """
    deleted = np.zeros(entry.rows, np.bool_)
    if entry.deleted is not None:
        rows = _mapped(folder, entry.deleted, range(4, 4 * entry.rows + 1, 4)).view("<u4")
        if rows[-1] >= entry.rows or not (np.diff(rows.astype(np.int64)) > 0).all():
            raise _damaged(folder, entry.deleted, "it lists rows that the segment does not have")
        deleted[rows] = True
    if known is not None:
        return Segment(entry, known.vectors, known.items, deleted, known.row_of, known.columns)
    lines = _mapped(folder, entry.items, range(MAX_ITEM_BYTES * entry.rows + 1)).tobytes()
    try:
        items = msgspec.json.Decoder(StoredItem).decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(folder, entry.items, str(error)) from error
    row_of = {item.id: row for row, item in enumerate(items)}
    if len(items) != entry.rows or len(row_of) != entry.rows:
        raise _damaged(folder, entry.items, f"it does not have {entry.rows} different items")
    size = 4 * dim * entry.rows
    vectors = _mapped(folder, entry.vectors, range(size, size + 1)).view("<f4").reshape(entry.rows, dim)
    return Segment(entry, vectors, items, deleted, row_of)


def _mapped(folder: Path, file: DataFile, sizes: range) -> npt.NDArray[np.uint8]:
    """The bytes of a file, compared with what the manifest says of it; mapped, not in memory."""
    path = folder / file.file
    if file.bytes not in sizes or path.stat().st_size != file.bytes:
        raise _damaged(folder, file, "it has another size")
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    digest = hashlib.sha256()
    for start in range(0, len(mapped), READ_BYTES):
        digest.update(mapped[start : start + READ_BYTES].data)
    if digest.hexdigest() != file.sha256:
        raise _damaged(folder, file, "its sha256 is not the manifest's")
    return mapped


def _damaged(folder: Path, file: DataFile, why: str) -> InvalidGallery:
    return InvalidGallery(f"{file.file} of the gallery {short(folder)} is damaged ({why}): {_REPAIR}")
