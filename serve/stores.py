"""What clients store: galleries of their photos' embeddings, and heads for their own classes.

Photos are never kept. Everything is in one data folder, whose format `leap_zoo` defines; galleries may be on a Qdrant
server instead. All methods block while they wait for a disk or a server: call them on the stores' threads, so that the
engine's threads do not wait. Those of galleries and heads raise Refused: 422 for invalid names, 409 for a limit that
would be exceeded, 503 if the disk or the server fails, 500 for damaged files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, NoReturn, TypeVar

import msgspec
import numpy as np
from numpy.lib import format as npy

from leap_zoo.errors import InvalidArgument, InvalidGallery, InvalidHead, UnknownHead, nearest, short
from leap_zoo.files import atomic_file, sync_folder
from leap_zoo.gallery import Gallery, Hit, Item, Kind, Metadata, Vectors, Where, checked_ids, checked_metadata
from leap_zoo.gallery.flat import MANIFEST, FlatGallery, Manifest, read_manifest
from leap_zoo.gallery.qdrant import NoCollection, QdrantGallery, asking, connect
from leap_zoo.heads import SUFFIX, CustomHead, encode_head
from leap_zoo.locks import locked
from serve.engine import Room, Threads, lower_priority
from serve.problems import Refused, sentence

logger = logging.getLogger("leap_zoo.serve")

# A name in a path, for the schema; `checked_name` decides.
NAME = {"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "minLength": 1, "maxLength": 64}
_NAME = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
_STEM = re.compile(r"\A(?:[a-z0-9-]|_[a-z0_])+\Z")
_ESCAPED = {"_": "__", ".": "_0"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPED.items()}


@dataclass(frozen=True)
class Limits:
    """Limits on what is stored. A request that would exceed one is refused, and nothing that is stored is lost.

    items: per gallery. gallery_bytes: of all galleries in total (in a folder; a Qdrant server has its own limits).
    id_characters: of an item's id; short enough for a table of ids. fit_photos: of one head.
    """

    galleries: int = 64
    items: int = 100_000
    gallery_bytes: int = 4 * 2**30
    id_characters: int = 256
    heads: int = 64
    head_bytes: int = 4 * 2**20
    fit_photos: int = 500


def checked_name(name: str) -> str:
    """The name. Raises Refused (422) unless it is 1 to 64 letters, digits, `_`, `-`, `.` and starts with none of -."""
    if not _NAME.match(name):
        detail = "A name has 1 to 64 letters, digits, underscores, hyphens and dots, and does not start with - or ."
        raise Refused("invalid_name", detail)
    return name


def stem_of(name: str) -> str:
    """A name encoded as lower-case letters, digits, `-` and `_`; different names have different encodings.

    A capital letter gets `_` before it, so that `Cats` and `cats` differ on case-insensitive disks, too. Raises as
    `checked_name` does.
    """
    return "".join(_ESCAPED.get(one) or (f"_{one.lower()}" if one.isupper() else one) for one in checked_name(name))


def name_of(stem: str) -> str | None:
    """The name that has this stem; None if `stem_of` did not make it."""
    name = re.sub(r"_(.)", lambda found: _PLAIN.get(found[0]) or found[1].upper(), stem)
    return name if _STEM.match(stem) and _NAME.match(name) and stem_of(name) == stem else None


def bytes_below(folder: Path) -> int:
    """The size of all files below a folder in total."""
    total = 0
    for parent, _, names in os.walk(folder):  # unlike Path.rglob, ignores a folder that is deleted meanwhile
        for name in names:
            with contextlib.suppress(OSError):  # deleted meanwhile
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def unavailable(error: Exception) -> Refused:
    """The refusal while stored data cannot be read or written; the reason is logged."""
    logger.error("stored data cannot be read or written: %s", error)
    detail = "Stored data cannot be read or written at the moment. Try again later."
    return Refused("store_unavailable", detail)


HELD_BYTES = 32 * 2**20  # of the heads that stay in memory between requests; most have a few KB


@dataclass(frozen=True)
class Named:
    """A head, its name, and the bytes of its file."""

    name: str
    head: CustomHead
    bytes: int


class Heads:
    """The heads of the service. All methods block (`get` only briefly); several threads and processes may call them.

    A file is read again only if it has changed, or if many large heads are in use.
    The methods raise Refused: 422 for an invalid name, 409 for a name that is taken and for a limit that would be
    exceeded, 503 if the disk fails, 500 for a damaged file; and UnknownHead.
    """

    def __init__(self, folder: Path, work: Path, limits: Limits) -> None:
        """folder: of the files; must exist. Files that a killed writer left are removed. Raises OSError."""
        self._folder, self._lock = folder, work / "lock"
        self.limits = limits
        self._guard = threading.Lock()
        self._held: dict[Path, tuple[tuple[int, int, int], CustomHead]] = {}  # the last used one last
        with locked(self._lock):
            self._sweep()

    def get(self, name: str) -> Named:
        """The head."""
        path = self._place(name)
        with self._refusing(name):
            status = os.stat(path)
            try:
                head = self._load(path, (status.st_ino, status.st_mtime_ns, status.st_size))
            except InvalidHead as error:
                path.stat()  # raises if the file was deleted while it was read
                if isinstance(error.__cause__, OSError):
                    raise unavailable(error) from error
                logger.error("the head %r cannot be used: %s", name, error)
                raise Refused("head_damaged", "The head's file is damaged. See the server's log.") from error
            return Named(name, head, status.st_size)

    def list(self) -> Sequence[Named]:
        """All heads, sorted by name, except damaged ones."""
        found = []
        for name in self._names():
            with contextlib.suppress(UnknownHead, Refused):
                found.append(self.get(name))
        return found

    def create(self, name: str, head: CustomHead, *, replace: bool = False) -> Named:
        """Store a head durably. replace: overwrite one with the same name."""
        data = encode_head(head)
        if len(data) > self.limits.head_bytes:
            detail = f"A head has at most {self.limits.head_bytes} bytes: use fewer classes."
            raise Refused("head_too_large", detail)
        with self._refusing(name), locked(self._lock):
            self._sweep()
            self.check_room(name, replace=replace)
            with atomic_file(self._place(name)) as file:
                file.write(data)
            sync_folder(self._folder)
        return Named(name, head, len(data))

    def check_room(self, name: str, *, replace: bool = False) -> None:
        """Check that a head with this name could be created, before the cost of fitting it. Raises Refused (409)."""
        there = self._place(name).exists()
        if there and not replace:
            detail = f"The head {name} already exists: delete it, choose another name, or send replace=true."
            raise Refused("head_exists", detail)
        if not there and len(self._names()) >= self.limits.heads:
            detail = f"There are {self.limits.heads} heads, which is the limit: delete one first."
            raise Refused("too_many_heads", detail)

    def delete(self, name: str) -> None:
        """Delete a head, even if its file is damaged."""
        path = self._place(name)
        with self._refusing(name), locked(self._lock):
            path.unlink()
            sync_folder(self._folder)

    def _load(self, path: Path, version: tuple[int, int, int]) -> CustomHead:
        """The head, from memory if this version of its file is there. Raises InvalidHead."""
        with self._guard:
            held, head = self._held.pop(path, (None, None))
        if head is None or held != version:
            head = CustomHead.load(path)
        with self._guard:
            self._held[path] = version, head
            while sum(size for (_, _, size), _ in self._held.values()) > HELD_BYTES:
                del self._held[next(iter(self._held))]
        return head

    @contextlib.contextmanager
    def _refusing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or not self._folder.is_dir():
                raise unavailable(error) from error
            raise UnknownHead(f"no client has created a head {name}{nearest(name, self._names())}") from None

    def _names(self) -> Sequence[str]:
        stems = (path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}"))
        return sorted(name for name in map(name_of, stems) if name is not None)

    def _place(self, name: str) -> Path:
        return self._folder / f"{stem_of(name)}{SUFFIX}"

    def _sweep(self) -> None:
        """Remove the files that a killed writer left. The caller holds the lock."""
        for left in self._folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)


HELD = 8  # galleries whose ids and metadata stay in memory between requests
QDRANT_PREFIX = "leap-zoo-"  # of this service's collections on a server that may have others
MAX_COLLECTION = 128  # characters
KNOWN_SECONDS = 1.0  # for which a collection's kind is cached
BLOCK = 64 * 1024  # bytes of an export that are copied at once
_DELETED = ".deleted-"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class About:
    """A gallery: name, model and space of its embeddings, number of items, and bytes on disk (None: elsewhere)."""

    name: str
    kind: Kind
    items: int
    bytes: int | None


class Galleries(ABC):
    """Galleries by name. All methods block; several threads and processes may call them. Writers of all galleries take
    turns; readers never wait.

    The methods raise Refused: 422 for invalid names, ids and metadata, 404 for a gallery that does not exist, 409 for
    embeddings of another kind and for a limit that would be exceeded, 503 if the disk or the server fails, 500 for
    damaged files. The methods that a subclass defines raise InvalidGallery and OSError instead.
    """

    attempts = 1
    """How often to try to read a gallery that others may replace at the same time."""

    def __init__(self, work: Path, limits: Limits) -> None:
        """work: a folder for the lock of writers, and for exports while they are sent."""
        self._work, self._lock, self.limits = work, work / "lock", limits

    def list(self) -> Sequence[About]:
        """All galleries, sorted by name, except those with a damaged manifest."""
        found = []
        with self._refusing(""):
            for name in self._names():
                try:
                    found.append(self._about(name))
                except InvalidGallery as error:
                    if self._explain(name, error).status == 503:
                        raise
        return [about for about in found if about is not None]

    def about(self, name: str) -> About:
        """Describe a gallery."""
        return self.find(name) or _unknown(name)

    def find(self, name: str) -> About | None:
        """Describe a gallery; None if none has this name."""
        with self._refusing(checked_name(name)):
            return self._about(name)

    def kind(self, name: str) -> Kind:
        """The model and space of a gallery's embeddings, to check before photos are embedded for it."""
        return self._read(name, lambda gallery: gallery.kind)

    def checked(
        self, ids: Sequence[str], metadata: Sequence[Metadata] | None
    ) -> tuple[Sequence[str], Sequence[Metadata]]:
        """Ids and metadata, checked before the cost of embedding. Raises Refused (422)."""
        for number, one in enumerate(ids):
            if len(one) > self.limits.id_characters:
                detail = f"This id has more than {self.limits.id_characters} characters: shorten it."
                raise Refused("invalid_id", detail, index=number)
        try:
            fields = checked_metadata(metadata, len(ids))
        except InvalidArgument as error:
            raise Refused("invalid_metadata", sentence(str(error))) from error
        return _checked(ids), fields

    def make(self, name: str, kind: Kind) -> About:
        """The gallery, which is created if it does not exist."""
        with self._writing(name):
            found = self._about(name)
            if found is None:
                self._made(name, kind)
                found = self.about(name)
            require(found.kind, kind)
            return found

    def add(
        self, name: str, kind: Kind, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata] | None = None
    ) -> int:
        """Add or replace items durably, creating the gallery if needed; returns how many items it then has.

        kind: of the vectors (N, D). Raises as `checked` does.
        """
        names, fields = self.checked(ids, metadata)
        size = 4 * vectors.size + sum(map(len, map(msgspec.json.encode, [*names, *fields])))
        with self._writing(name):
            gallery = self._open(name)
            if gallery is not None:
                require(gallery.kind, kind)
            self._check_room(gallery, names, size)
            if gallery is None:
                gallery = self._made(name, kind)
            gallery.add(names, vectors, fields)
            return gallery.count()

    def search(
        self, name: str, kind: Kind, vectors: Vectors, k: int, where: Where | None = None
    ) -> Sequence[Sequence[Hit]]:
        """The k nearest items to each query, as `Gallery.search`; kind: of the queries. Raises InvalidArgument."""

        def find(gallery: Gallery) -> Sequence[Sequence[Hit]]:
            require(gallery.kind, kind)
            return gallery.search(vectors, k, where)

        return self._read(name, find)

    def items(
        self, name: str, offset: int = 0, limit: int | None = None, *, after: str | None = None
    ) -> Sequence[Item]:
        """A page of a gallery's items, in its own order, as `Gallery.items`. Raises InvalidArgument."""
        return self._read(name, lambda gallery: gallery.items(offset, limit, after=after))

    def temporary_file(self) -> IO[bytes]:
        """A file for an export, without a name: the system removes it however the process ends."""
        with self._refusing(""):
            return tempfile.TemporaryFile(dir=self._work)

    def export(self, name: str, file: IO[bytes]) -> None:
        """Write a whole gallery into an open file, in one state, as npz. Closing the file stops that."""
        self._read(name, lambda gallery: _write_npz(gallery, file, self._work))
        file.seek(0)

    def delete_items(self, name: str, ids: Sequence[str]) -> int:
        """Delete items; returns how many of them existed."""
        names = _checked(ids)
        with self._writing(name):
            return self._read(name, lambda gallery: gallery.delete(names))

    def delete(self, name: str) -> None:
        """Delete a gallery and everything in it. Running searches may finish or fail."""
        with self._writing(name):
            if not self._drop(name):
                _unknown(name)

    @abstractmethod
    def close(self) -> None:
        """Close connections."""

    @abstractmethod
    def _names(self) -> Sequence[str]:
        """Sorted."""

    @abstractmethod
    def _about(self, name: str) -> About | None:
        """Describe a gallery as cheaply as possible; None if it does not exist."""

    @abstractmethod
    def _open(self, name: str) -> Gallery | None:
        """The newest state of a gallery; None if it does not exist."""

    @abstractmethod
    def _make(self, name: str, kind: Kind) -> Gallery:
        """Create an empty gallery durably."""

    @abstractmethod
    def _drop(self, name: str) -> bool:
        """Delete a gallery in any state; returns whether it existed."""

    def _used(self) -> int:
        """Bytes on disk of all galleries in total."""
        return 0

    def _explain(self, name: str, error: InvalidGallery) -> Refused:
        """The refusal for an error that the client did not cause."""
        return unavailable(error)

    def _made(self, name: str, kind: Kind) -> Gallery:
        if len(self._names()) >= self.limits.galleries:
            detail = f"There are {self.limits.galleries} galleries, which is the limit: delete one first."
            raise Refused("too_many_galleries", detail)
        return self._make(name, kind)

    def _check_room(self, gallery: Gallery | None, names: Sequence[str], size: int) -> None:
        """Check the limits before anything is written. Raises Refused (409)."""
        count = 0 if gallery is None else gallery.count()
        if gallery is not None and count + len(names) > self.limits.items:
            count -= len({item.id for item in gallery.items()} & set(names))  # they are replaced
        if count + len(names) > self.limits.items:
            detail = f"A gallery holds at most {self.limits.items} items: delete some first."
            raise Refused("gallery_full", detail)
        if self._used() + size > self.limits.gallery_bytes:
            detail = "The galleries have reached their total limit in bytes: delete some items first."
            raise Refused("store_full", detail)

    def _read(self, name: str, work: Callable[[Gallery], Answer]) -> Answer:
        """Read without a lock: a gallery that is deleted and created again meanwhile is read once more."""
        with self._refusing(checked_name(name)):
            for _ in range(self.attempts - 1):
                with contextlib.suppress(InvalidGallery):
                    return work(self._open(name) or _unknown(name))
            return work(self._open(name) or _unknown(name))

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        with self._refusing(checked_name(name)), locked(self._lock):
            yield

    @contextlib.contextmanager
    def _refusing(self, name: str) -> Iterator[None]:
        try:
            yield
        except InvalidGallery as error:
            raise self._explain(name, error) from error
        except OSError as error:
            raise unavailable(error) from error


class FolderGalleries(Galleries):
    """A folder of galleries. A few of them stay loaded, so that their files are verified once, not at every search."""

    attempts = 5

    def __init__(self, folder: Path, work: Path, limits: Limits) -> None:
        """folder: must exist. Galleries that a killed process had begun to delete are removed."""
        super().__init__(work, limits)
        self._folder = folder
        self._loaded = lru_cache(HELD)(lambda place, kind: FlatGallery(place))
        self._sweep()

    def close(self) -> None:
        """See `Galleries.close`."""
        self._loaded.cache_clear()

    def _names(self) -> Sequence[str]:
        """A folder without a manifest is incomplete (the writer was killed) and is ignored."""
        stems = (entry.name for entry in os.scandir(self._folder) if os.path.isfile(os.path.join(entry, MANIFEST)))
        return sorted(name for name in map(name_of, stems) if name is not None)

    def _about(self, name: str) -> About | None:
        manifest = self._manifest(name)
        if manifest is None:
            return None
        return About(name, manifest.kind, manifest.count, sum(file.bytes for file in manifest.files()))

    def _open(self, name: str) -> FlatGallery | None:
        manifest = self._manifest(name)
        return None if manifest is None else self._loaded(self._place(name), manifest.kind)

    def _make(self, name: str, kind: Kind) -> FlatGallery:
        self._sweep()
        gallery = FlatGallery(self._place(name), kind)
        sync_folder(self._folder)
        return gallery

    def _drop(self, name: str) -> bool:
        """The gallery disappears at once; its files are deleted afterward."""
        there = self._is_there(name)
        aside = self._folder / f"{_DELETED}{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._place(name), aside)
            sync_folder(self._folder)
        self._loaded.cache_clear()  # which may have mapped its files
        shutil.rmtree(aside, ignore_errors=True)
        return there

    def _used(self) -> int:
        return bytes_below(self._folder)

    def _explain(self, name: str, error: InvalidGallery) -> Refused:
        if isinstance(error.__cause__, OSError):
            return unavailable(error)
        logger.error("the gallery %r cannot be used: %s", name, error)
        return Refused("gallery_damaged", "The gallery's files are damaged. See the server's log.")

    def _manifest(self, name: str) -> Manifest | None:
        try:
            return read_manifest(self._place(name))
        except InvalidGallery:
            if self._is_there(name):
                raise
            return None

    def _place(self, name: str) -> Path:
        return self._folder / stem_of(name)

    def _is_there(self, name: str) -> bool:
        return (self._place(name) / MANIFEST).is_file()

    def _sweep(self) -> None:
        for left in self._folder.glob(f"{_DELETED}*"):
            shutil.rmtree(left, ignore_errors=True)


class QdrantGalleries(Galleries):
    """Collections of a server that other services may share. Requests are not retried, because a failure may take a
    minute; the server isolates readers from writers. A search is one request, plus one if the last was a second ago.
    """

    def __init__(self, url: str, work: Path, limits: Limits) -> None:
        """url: `qdrant://HOST:PORT`; not contacted yet. Raises InvalidArgument, MissingExtra."""
        super().__init__(work, limits)
        self._client, collection = connect(url)
        if collection:
            raise InvalidArgument("the URL names a collection: give only the server, qdrant://HOST:PORT")
        self._opened: dict[str, tuple[float, QdrantGallery]] = {}  # collection -> when it was opened, and the gallery

    def close(self) -> None:
        """See `Galleries.close`."""
        self._client.close()

    def _names(self) -> Sequence[str]:
        with asking("list"):
            collections = [one.name for one in self._client.get_collections().collections]
        ours = (name.removeprefix(QDRANT_PREFIX) for name in collections if name.startswith(QDRANT_PREFIX))
        return sorted(name for name in map(name_of, ours) if name is not None)

    def _about(self, name: str) -> About | None:
        gallery = self._open(name)
        return None if gallery is None else About(name, gallery.kind, gallery.count(), None)

    def _open(self, name: str) -> Gallery | None:
        collection = self._collection(name)
        opened, gallery = self._opened.get(collection, (0.0, None))
        if gallery is None or time.monotonic() - opened > KNOWN_SECONDS:
            try:
                gallery = QdrantGallery(self._client, collection)
            except NoCollection:
                self._opened.pop(collection, None)
                return None
            self._opened[collection] = time.monotonic(), gallery
        return gallery

    def _make(self, name: str, kind: Kind) -> Gallery:
        return QdrantGallery(self._client, self._collection(name), kind)

    def _drop(self, name: str) -> bool:
        collection = self._collection(name)
        with asking(collection):
            there = bool(self._client.collection_exists(collection))
            self._client.delete_collection(collection)
        self._opened.pop(collection, None)
        return there

    def _collection(self, name: str) -> str:
        collection = QDRANT_PREFIX + stem_of(name)
        if len(collection) > MAX_COLLECTION:
            raise Refused("invalid_name", "The name is too long for the Qdrant server: use a shorter one.")
        return collection


def _write_npz(gallery: Gallery, file: IO[bytes], folder: Path) -> None:
    """Write a gallery into an open file, block by block, unless it is closed meanwhile.

    embeddings: float32 (N, D), rows of length 1; ids: text (N,); metadata: uint8, a line of JSON per item, in the same
    order; model, revision, space. folder: for temporary files. Raises OSError, and ValueError for a closed file.
    """
    encoder, kind, ids = msgspec.json.Encoder(), gallery.kind, list[str]()
    # An array's header has its length, which is known only at the end.
    with tempfile.TemporaryFile(dir=folder) as vectors, tempfile.TemporaryFile(dir=folder) as lines:
        for names, rows, metadata in gallery.export():
            if file.closed:  # nobody waits any more, and a large gallery would take minutes
                raise ValueError("export into a closed file")
            ids += names
            vectors.write(rows.astype("<f4", copy=False).tobytes())
            lines.write(encoder.encode_lines(metadata))
        small = {name: np.array(getattr(kind, name)) for name in ("model", "revision", "space")}
        large = {"embeddings": (vectors, (len(ids), kind.dim), "<f4"), "metadata": (lines, (lines.tell(),), "|u1")}
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in ({"ids": np.array(ids, np.str_)} | small).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array(entry, array, allow_pickle=False)
            for name, (data, shape, dtype) in large.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array_header_1_0(entry, {"descr": dtype, "fortran_order": False, "shape": shape})
                    data.seek(0)
                    shutil.copyfileobj(data, entry, BLOCK)


def require(found: Kind, wanted: Kind) -> None:
    """Raises Refused (409) unless vectors of the two kinds can be compared."""
    if found != wanted:
        detail = f"The gallery has embeddings of {found}, which cannot be compared with those of {wanted}."
        raise Refused("other_embeddings", f"{detail} Use the gallery's model and space, or another gallery.")


def _checked(ids: Sequence[str]) -> Sequence[str]:
    try:
        return checked_ids(ids)
    except InvalidArgument as error:
        raise Refused("invalid_id", sentence(str(error))) from error


def _unknown(name: str) -> NoReturn:
    raise Refused("unknown_gallery", f"There is no gallery {name}. GET /v1/galleries lists them.")


MOST = 64  # pieces of work of each kind, running and waiting
_WAITING = "Too many requests are reading or writing stored data."


@dataclass(frozen=True)
class Stores:
    """The galleries and the heads of one service. One thread writes, because writers take turns anyway."""

    galleries: Galleries
    heads: Heads
    temporary: tempfile.TemporaryDirectory[str] | None = field(repr=False)
    readers: Threads = field(default_factory=lambda: Threads("readers", 8, Room(MOST, _WAITING), lower_priority))
    writer: Threads = field(default_factory=lambda: Threads("writer", 1, Room(MOST, _WAITING)))

    def close(self) -> None:
        """Close connections, and delete the folder if it is temporary."""
        self.readers.close()
        self.writer.close()
        self.galleries.close()
        if self.temporary is not None:
            self.temporary.cleanup()


def open_stores(data: Path | None = None, *, qdrant: str | None = None, limits: Limits | None = None) -> Stores:
    """The stores in the folder `data`, which is created; None: in a temporary folder, with a warning in the log.

    qdrant: `qdrant://HOST:PORT` or `https://HOST:PORT`; galleries are collections there. Heads are always in the
    folder. Raises InvalidArgument if the folder cannot be written or the URL is invalid; MissingExtra.
    """
    bounds, temporary = limits or Limits(), None
    if data is None:
        temporary = tempfile.TemporaryDirectory(prefix="leap-zoo-data-", ignore_cleanup_errors=True)
        data = Path(temporary.name)
        logger.warning("LEAP_ZOO_SERVE_DATA is not set: heads and galleries are lost when the service stops")
    work = data / "work"
    try:
        for folder in (data / "galleries", data / "heads", work):
            folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=data).close()
    except OSError as error:
        raise InvalidArgument(
            f"LEAP_ZOO_SERVE_DATA {short(data)} cannot be written ({error.strerror}): check permissions and space"
        ) from error
    galleries = QdrantGalleries(qdrant, work, bounds) if qdrant else FolderGalleries(data / "galleries", work, bounds)
    return Stores(galleries, Heads(data / "heads", work, bounds), temporary)
