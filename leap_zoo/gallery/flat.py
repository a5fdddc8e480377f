"""The default gallery: exact, in a folder, mapped into memory; right up to about two hundred thousand photos.

Vectors lie in immutable segments. An `add` writes one new segment and takes the smaller segments before it along, so
that there are few of them (the logarithm of the count) and a row is rewritten as seldom. A `delete` writes the list of
a segment's deleted rows. How that survives a kill is said in `leap_zoo.gallery.files`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.errors import InvalidArgument, InvalidGallery, short
from leap_zoo.gallery import (
    EXPORT_ROWS,
    Gallery,
    Hit,
    Item,
    Kind,
    Metadata,
    Value,
    Vectors,
    Where,
    checked_ids,
    checked_metadata,
    checked_query,
    unit_rows,
)
from leap_zoo.gallery.files import (
    LOCK,
    MANIFEST,
    Manifest,
    Rows,
    Segment,
    SegmentEntry,
    StoredItem,
    is_ours,
    sweep,
    write_file,
    write_manifest,
    writing,
)
from leap_zoo.gallery.snapshot import Snapshot, load, nearest, read_item

COPY_ROWS = 8192
FEW_DEAD = 1000  # so many deleted rows are no reason to rewrite everything

Mask = npt.NDArray[np.bool_]
Part = tuple[list[StoredItem], Vectors]


class FlatGallery(Gallery):
    """A gallery in a folder. Every call sees the newest state, whoever wrote it; reading never waits for a writer."""

    def __init__(self, folder: Path, kind: Kind | None = None) -> None:
        """Open the gallery in `folder`, or make one of `kind` when there is none (None: InvalidGallery)."""
        self.folder = folder
        if kind is not None and not (folder / MANIFEST).is_file():
            _create(folder, kind)
        self._snapshot = load(folder, None)
        self.kind = self._snapshot.manifest.kind

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.folder)!r}, {self.kind}>"

    def snapshot(self) -> Snapshot:
        """The newest state. Raises InvalidGallery when a file is damaged."""
        known = self._snapshot
        newest = load(self.folder, known)
        if newest.manifest.kind != self.kind:
            raise InvalidGallery(f"the gallery {short(self.folder)} was replaced by one of another kind: open it anew")
        self._snapshot = newest
        return newest

    def add(self, ids: Sequence[str], vectors: npt.ArrayLike, metadata: Sequence[Metadata] | None = None) -> None:
        """See `Gallery.add`. Costs a few flushes to the disk, however large the gallery."""
        self._refuse_if_read_only()
        names = checked_ids(ids)
        rows = unit_rows(vectors, self.kind.dim)
        if len(rows) != len(names):
            raise InvalidArgument(f"{len(names)} ids need as many vectors, not {len(rows)}")
        fields = checked_metadata(metadata, len(names))
        if not names:
            return
        items = [
            StoredItem(id=name, metadata=msgspec.Raw(msgspec.json.encode(one)))
            for name, one in zip(names, fields, strict=True)
        ]
        with writing(self.folder):
            state = self.snapshot()
            self._commit(state, _deleted(state, names), (items, rows))

    def delete(self, ids: Sequence[str]) -> int:
        """See `Gallery.delete`."""
        self._refuse_if_read_only()
        names = checked_ids(ids)
        with writing(self.folder):
            state = self.snapshot()
            masks = _deleted(state, names)
            found = state.manifest.count - sum(int((~mask).sum()) for mask in masks)
            if found:
                self._commit(state, masks)
        return found

    def compact(self) -> None:
        """Rewrite everything as one segment without deleted rows. Writing does it when most rows are dead."""
        with writing(self.folder):
            state = self.snapshot()
            self._commit(state, _deleted(state, []), everything=True)

    def search(self, vectors: npt.ArrayLike, k: int = 10, where: Where | None = None) -> list[list[Hit]]:
        """See `Gallery.search`. Exact: every vector is looked at."""
        conditions = checked_query(k, where)
        queries = unit_rows(vectors, self.kind.dim)
        state = self.snapshot()
        return state.hits(nearest(state, queries, k, conditions))

    def count(self) -> int:
        """See `Gallery.count`."""
        return self.snapshot().manifest.count

    def items(self, offset: int = 0, limit: int | None = None) -> list[Item]:
        """See `Gallery.items`: in the order in which they were added or last replaced."""
        stored = (segment.items[row] for segment, rows in self.snapshot().live() for row in rows)
        return [read_item(item) for item in islice(stored, offset, None if limit is None else offset + limit)]

    def export(self) -> Iterator[tuple[list[str], Vectors, list[dict[str, Value]]]]:
        """See `Gallery.export`: one state, whatever is written meanwhile."""
        for segment, rows in self.snapshot().live():
            for start in range(0, len(rows), EXPORT_ROWS):
                part = rows[start : start + EXPORT_ROWS]
                items = [read_item(segment.items[row]) for row in part]
                yield [item.id for item in items], segment.vectors[part], [item.metadata for item in items]

    def _commit(self, state: Snapshot, masks: list[Mask], new: Part | None = None, *, everything: bool = False) -> None:
        """Make the state durable in which `masks` are the deleted rows and the `new` ones come last. Needs the lock."""
        size = 0 if new is None else len(new[0])
        live = [int((~mask).sum()) for mask in masks]
        everything = everything or state.rows - sum(live) > max(FEW_DEAD, sum(live) + size)
        first, taken = len(live), size  # segments from `first` on are written again, before the new rows
        while first and (everything or live[first - 1] == 0 or (new is not None and live[first - 1] <= taken)):
            first -= 1
            taken += live[first]
        generation = state.manifest.generation + 1
        entries = [
            self._marked(state.segments[at], masks[at], f"{generation:08d}-deleted-{at}.u32")
            for at in range(first)
            if live[at]
        ]
        if taken:
            old = [(state.segments[at], np.flatnonzero(~masks[at])) for at in range(first, len(live))]
            entries.append(self._written(old, new, taken, generation))
        manifest = Manifest(kind=self.kind, generation=generation, count=sum(live) + size, segments=entries)
        write_manifest(self.folder, manifest)
        sweep(self.folder, manifest)

    def _marked(self, segment: Segment, mask: Mask, name: str) -> SegmentEntry:
        if np.array_equal(mask, segment.deleted):
            return segment.entry
        rows = np.flatnonzero(mask).astype("<u4")
        return msgspec.structs.replace(segment.entry, deleted=write_file(self.folder, name, [rows.tobytes()]))

    def _written(self, old: list[tuple[Segment, Rows]], new: Part | None, rows: int, generation: int) -> SegmentEntry:
        def parts() -> Iterator[Part]:
            for segment, live in old:
                yield from _parts(segment, live)
            if new is not None:
                yield new

        encoder = msgspec.json.Encoder()
        vectors = (part.astype("<f4", copy=False).tobytes() for _, part in parts())
        items = (encoder.encode_lines(part) for part, _ in parts())
        return SegmentEntry(
            rows=rows,
            vectors=write_file(self.folder, f"{generation:08d}-vectors.f32", vectors),
            items=write_file(self.folder, f"{generation:08d}-items.jsonl", items),
        )


def _create(folder: Path, kind: Kind) -> None:
    with writing(folder):
        if (folder / MANIFEST).is_file():
            return  # somebody else was first
        strange = [path.name for path in folder.iterdir() if path.name != LOCK and not is_ours(path.name)]
        if strange:
            raise InvalidGallery(
                f"{short(folder)} is no gallery and not empty (it holds {short(strange[0])}): give a new folder"
            )
        write_manifest(folder, Manifest(kind=kind))


def _deleted(state: Snapshot, ids: list[str]) -> list[Mask]:
    """The deleted rows of each segment once these ids are deleted too."""
    masks = [segment.deleted.copy() for segment in state.segments]
    for segment, mask in zip(state.segments, masks, strict=True):
        mask[[row for one in ids if (row := segment.row_of.get(one)) is not None]] = True
    return masks


def _parts(segment: Segment, rows: Rows) -> Iterator[Part]:
    for start in range(0, len(rows), COPY_ROWS):
        part = rows[start : start + COPY_ROWS]
        yield [segment.items[row] for row in part], segment.vectors[part]
