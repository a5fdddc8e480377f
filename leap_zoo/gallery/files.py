"""A gallery's folder: `manifest.json`, and data files that are written once, named by it, and never changed.

    manifest.json          what the vectors are, and per segment its files with size and sha256; replaced atomically
    00000007-vectors.f32   float32, little-endian, row by row, each row of length 1
    00000007-items.jsonl   a line per row: {"id": ..., "metadata": {...}}
    00000009-deleted-2.u32 rows of segment 2 that are deleted, uint32, little-endian, ascending
    lock                   while a process writes

A reader sees one manifest and the files that it names. A writer writes new files, flushes them to the disk, and only
then replaces the manifest: killed at any moment, it leaves the state before or the state after. Files that no manifest
names are taken away by the next writer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.atomic import sync_folder
from leap_zoo.card import File, Positive, Sha256
from leap_zoo.errors import InvalidGallery, short
from leap_zoo.gallery import Kind, Vectors
from leap_zoo.locks import locked

SCHEMA: Final = 1
MANIFEST, LOCK = "manifest.json", "lock"
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_ITEM_BYTES = 64 * 1024  # of a line: an id, its metadata, and what JSON escapes
READ_BYTES = 4 * 1024 * 1024

_OURS = re.compile(r"\A([0-9]{8,}-(vectors\.f32|items\.jsonl|deleted-[0-9]+\.u32)|\.manifest\.json\.new)\Z")
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Rows = npt.NDArray[np.intp]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class SegmentEntry(_Strict, frozen=True):
    """A segment of `rows` rows: its vectors, its items, and which of its rows are deleted (None: none)."""

    rows: Annotated[Positive, msgspec.Meta(lt=2**32)]
    vectors: File
    items: File
    deleted: File | None = None

    @property
    def files(self) -> list[File]:
        """All of them."""
        return [self.vectors, self.items] + ([] if self.deleted is None else [self.deleted])


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


class StoredItem(_Strict, frozen=True):
    """A line of an items file; metadata stay JSON until somebody asks for them."""

    id: str
    metadata: msgspec.Raw


@dataclass(frozen=True)
class Segment:
    """A segment whose files are open and were found to be what the manifest says."""

    entry: SegmentEntry
    vectors: Vectors  # (rows, dim), mapped from the file
    items: list[StoredItem]
    deleted: npt.NDArray[np.bool_]  # (rows,)
    row_of: dict[str, int] = field(default_factory=dict, repr=False)
    columns: dict[str, dict[tuple[type, object], Rows]] = field(default_factory=dict, repr=False)

    @property
    def live(self) -> int:
        """Rows that are not deleted."""
        return len(self.items) - int(self.deleted.sum())

    def where(self, key: str, value: object) -> Rows:
        """The rows, deleted ones too, whose metadata have this value of this type."""
        if key not in self.columns:
            found: dict[tuple[type, object], list[int]] = {}
            for row, item in enumerate(self.items):
                fields = msgspec.json.decode(item.metadata)
                if key in fields:
                    found.setdefault((type(fields[key]), fields[key]), []).append(row)
            self.columns[key] = {each: np.array(rows, np.intp) for each, rows in found.items()}
        return self.columns[key].get((type(value), value), np.empty(0, np.intp))


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, waiting for other writers, of this and of other processes. Raises InvalidGallery."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            yield
    except OSError as error:
        raise _unwritable(folder, error) from error


def read_manifest(folder: Path) -> bytes:
    """The bytes of the manifest, bounded. Raises InvalidGallery when there is none."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise InvalidGallery(
            f"{short(folder)} is no gallery ({MANIFEST}: {error.strerror}): make one with leap-zoo index"
        ) from error


def parse_manifest(data: bytes, folder: Path) -> Manifest:
    """The manifest in `data`. Raises InvalidGallery when it is none, or not as it was written."""
    path = folder / MANIFEST
    try:
        version = msgspec.json.decode(data, type=_Version).schema
        if version > SCHEMA:
            raise InvalidGallery(
                f"{short(path)} has schema {version}, this leap-zoo reads {SCHEMA}: pip install -U leap-zoo"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidGallery(f"{short(path)} is no manifest of a gallery ({error}): {_MEND}") from error
    if manifest.encode() != data:
        raise InvalidGallery(f"{short(path)} is not as it was written: {_MEND}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest, once what it names is on the disk."""
    new = folder / f".{MANIFEST}.new"
    data = manifest.encode()
    if len(data) > MAX_MANIFEST_BYTES:
        raise InvalidGallery("the manifest of this gallery has grown too large: index the photos anew")
    sync_folder(folder)
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, folder / MANIFEST)
    sync_folder(folder)


def write_file(folder: Path, name: str, parts: Iterable[bytes | memoryview]) -> File:
    """Write a data file and flush it to the disk."""
    digest, size = hashlib.sha256(), 0
    with (folder / name).open("wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return File(file=name, bytes=size, sha256=digest.hexdigest())


def open_segment(folder: Path, entry: SegmentEntry, dim: int, known: Segment | None = None) -> Segment:
    """Open and verify a segment's files; those that `known` has open already are taken from it.

    Raises InvalidGallery when a file is not what the manifest says; FileNotFoundError.
    """
    deleted = np.zeros(entry.rows, np.bool_)
    if entry.deleted is not None:
        data = _checked(folder, entry.deleted, max_bytes=4 * entry.rows)
        rows = np.frombuffer(data, "<u4")
        if len(rows) == 0 or rows[-1] >= entry.rows or not (np.diff(rows.astype(np.int64)) > 0).all():
            raise _damaged(folder, entry.deleted, "its rows are none of the segment")
        deleted[rows] = True
    if known is not None and (known.entry.vectors, known.entry.items) == (entry.vectors, entry.items):
        return Segment(entry, known.vectors, known.items, deleted, known.row_of, known.columns)
    if entry.vectors.bytes != 4 * dim * entry.rows:
        raise _damaged(folder, entry.vectors, f"{entry.rows} rows of {dim} have another size")
    items = _items(folder, entry)
    vectors = _mapped(folder, entry.vectors).reshape(entry.rows, dim)
    return Segment(entry, vectors, items, deleted, {item.id: row for row, item in enumerate(items)})


def is_ours(name: str) -> bool:
    """Whether a file of this name in the folder is one that a writer made."""
    return _OURS.match(name) is not None


def sweep(folder: Path, manifest: Manifest) -> None:
    """Take away data files that the manifest does not name: replaced ones, and those of a writer that was killed."""
    named = {file.file for entry in manifest.segments for file in entry.files}
    for name in os.listdir(folder):
        if is_ours(name) and name not in named:
            with contextlib.suppress(OSError):  # in use, on systems that keep a mapped file's name
                os.unlink(folder / name)


class _Version(msgspec.Struct):
    schema: int = SCHEMA


_MEND = "restore the gallery's folder from a copy, or index the photos anew"


def _items(folder: Path, entry: SegmentEntry) -> list[StoredItem]:
    data = _checked(folder, entry.items, max_bytes=MAX_ITEM_BYTES * entry.rows)
    try:
        items = msgspec.json.Decoder(StoredItem).decode_lines(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(folder, entry.items, str(error)) from error
    if len(items) != entry.rows or len({item.id for item in items}) != entry.rows:
        raise _damaged(folder, entry.items, f"it does not have {entry.rows} different items")
    return items


def _checked(folder: Path, file: File, max_bytes: int) -> bytes:
    if file.bytes > max_bytes:
        raise _damaged(folder, file, f"{file.bytes} bytes are too many")
    with (folder / file.file).open("rb") as opened:
        data = opened.read(file.bytes + 1)
    if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
        raise _damaged(folder, file, "its sha256 is not the manifest's")
    return data


def _mapped(folder: Path, file: File) -> Vectors:
    path = folder / file.file
    if path.stat().st_size != file.bytes:
        raise _damaged(folder, file, "it has another size")
    mapped: Vectors = np.memmap(path, "<f4", "r")
    data = memoryview(mapped.view(np.uint8).data)
    digest = hashlib.sha256()
    for start in range(0, len(data), READ_BYTES):
        digest.update(data[start : start + READ_BYTES])
    if digest.hexdigest() != file.sha256:
        raise _damaged(folder, file, "its sha256 is not the manifest's")
    return np.asarray(mapped)


def _damaged(folder: Path, file: File, why: str) -> InvalidGallery:
    return InvalidGallery(f"{file.file} of the gallery {short(folder)} is damaged ({why}): {_MEND}")


def _unwritable(folder: Path, error: OSError) -> InvalidGallery:
    return InvalidGallery(
        f"the gallery {short(folder)} cannot be written ({error.strerror}): make room or rights there, or give another"
    )
