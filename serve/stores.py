"""What clients leave here for later: galleries of their photos' embeddings, and heads for their own classes.

Photos are never kept. Everything lies in one data folder, whose format belongs to `leap_zoo`; galleries may lie on a
Qdrant server instead. All methods block for as long as a disk or a server takes: call them through `Stores.threads`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from leap_zoo.errors import InvalidArgument, InvalidGallery, InvalidHead, UnknownHead, nearest, short
from leap_zoo.files import atomic_file, sync_folder
from leap_zoo.gallery import Gallery, Hit, Item, Kind, Metadata, Vectors, Where, checked_ids, checked_metadata
from leap_zoo.heads import SUFFIX, CustomHead, HeadCard, encode_head
from leap_zoo.locks import locked
from serve.exports import Export
from serve.problems import Refused, sentence
from serve.shelves import About, FolderShelf, QdrantShelf, Shelf, checked_name, logger, name_of, stem_of, unavailable

THREADS = 8
MOST = 64  # under way and waiting, together
HEADS_HELD = 16  # in memory

T = TypeVar("T")
Answer = TypeVar("Answer")
Found = list[list[Hit]]
_Version = tuple[int, int, int]  # of a file: another one has another inode


@dataclass(frozen=True)
class Limits:
    """Bounds of what is kept. Whatever would pass one is refused, and nothing that is kept is lost for it.

    items: per gallery. gallery_bytes: of all galleries together (in a folder; a Qdrant server has limits of its own).
    id_characters: of an item's id; short enough for a table of ids. fit_photos: of one head. exports: at a time, as
    each holds temporary files for as long as its client takes to read it. conditions: of a search's `where`.
    """

    galleries: int = 64
    items: int = 100_000
    gallery_bytes: int = 4 * 2**30
    id_characters: int = 256
    heads: int = 64
    head_bytes: int = 4 * 2**20
    fit_photos: int = 500
    exports: int = 4
    conditions: int = 8


class WriteLock:
    """Who may write in the data folder: one thread of one process at a time. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._held.enter_context(locked(self._path))
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._held.close()
        finally:
            self._lock.release()


class Threads:
    """Threads that wait for disks and for other servers, so that none of the engine's does. For one event loop.

    One of them writes: writers take turns anyway, and waiting they would keep readers from their threads.
    """

    def __init__(self, threads: int = THREADS, most: int = MOST) -> None:
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="stores")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._most = most
        self._guard = threading.Lock()
        self._inside: Counter[ThreadPoolExecutor] = Counter()

    async def run(self, work: Callable[[], T], *, given_up: Callable[[T], object] | None = None) -> T:
        """The result of `work`. Raises Refused (503) when too much is waiting; what was given up counts to its end.

        given_up: called with a result that nobody waits for any more.
        """
        return await self._run(self._readers, work, given_up)

    async def write(self, work: Callable[[], T]) -> T:
        """The same for what changes something."""
        return await self._run(self._writer, work, None)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T], given_up: Callable[[T], object] | None) -> T:
        with self._guard:
            if self._inside[pool] >= self._most:
                detail = "Too much that is kept here is being read or written already. Try again shortly."
                raise Refused(503, "busy", detail, {"retry-after": "2"})
            self._inside[pool] += 1
        future = pool.submit(work)

        def ended(_: object) -> None:
            with self._guard:
                self._inside[pool] -= 1

        future.add_done_callback(ended)
        try:
            return await asyncio.shield(asyncio.wrap_future(future)) if given_up else await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if given_up:
                future.add_done_callback(lambda done: None if done.exception() else given_up(done.result()))
            raise

    def close(self) -> None:
        """Begin nothing more; what is under way is not waited for."""
        for pool in (self._readers, self._writer):
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Stores:
    """The galleries and the heads of one service."""

    galleries: GalleryStore
    heads: HeadStore
    limits: Limits
    threads: Threads = field(default_factory=Threads, repr=False)
    temporary: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def close(self) -> None:
        """Let go of connections, and of the folder where it was a temporary one."""
        self.threads.close()
        self.galleries.close()
        if self.temporary is not None:
            self.temporary.cleanup()


def open_stores(data: Path | None = None, *, qdrant: str | None = None, limits: Limits | None = None) -> Stores:
    """The stores in the folder `data`, which is made; None: in a temporary one, and the log says that nothing stays.

    qdrant: `qdrant://HOST:PORT` or `https://HOST:PORT`; galleries are collections there. Heads are always in the
    folder. Raises InvalidArgument when the folder cannot be written, or for an invalid URL; MissingExtra.
    """
    bounds, temporary = limits or Limits(), None
    if data is None:
        temporary = tempfile.TemporaryDirectory(prefix="leap-zoo-data-", ignore_cleanup_errors=True)
        data = Path(temporary.name)
        logger.warning("LEAP_ZOO_SERVE_DATA is not set: heads and galleries are lost when the service ends")
    try:
        for folder in (data, data / "galleries", data / "heads", data / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=data).close()
    except OSError as error:
        raise InvalidArgument(
            f"LEAP_ZOO_SERVE_DATA {short(data)} cannot be written ({error.strerror}): check permissions and space"
        ) from error
    shelf: Shelf = FolderShelf(data / "galleries") if qdrant is None else QdrantShelf(qdrant)
    lock = WriteLock(data / "work" / "lock")
    galleries = GalleryStore(shelf, data / "work", lock, bounds)
    return Stores(galleries, HeadStore(data / "heads", lock, bounds), bounds, temporary=temporary)


class GalleryStore:
    """The galleries of the service. All methods block; several threads and processes may call them. Writers of all
    galleries take turns, readers wait for nobody.

    They raise Refused: 422 for names, ids and metadata that are none, 404 for a gallery that nobody has, 409 for
    embeddings of another kind and for what would pass a limit, 503 when the disk or the server fails, 500 for damaged
    files.
    """

    def __init__(self, shelf: Shelf, work: Path, lock: WriteLock, limits: Limits) -> None:
        """shelf: where they lie. work: a folder for files that are written while they are sent."""
        self._shelf, self._work, self._lock = shelf, work, lock
        self._places = threading.BoundedSemaphore(limits.exports)
        self.limits = limits

    def list(self) -> Sequence[About]:
        """All of them, by name; those with a damaged manifest are left out."""
        found = []
        with self._refusing(""):
            for name in self._shelf.names():
                try:
                    found.append(self._shelf.about(name))
                except InvalidGallery as error:
                    if self._shelf.explain(name, error).status == 503:
                        raise
        return [about for about in found if about is not None]

    def about(self, name: str) -> About:
        """What a gallery is."""
        return self.find(name) or _unknown(name)

    def find(self, name: str) -> About | None:
        """What a gallery is; None when there is none of this name."""
        with self._refusing(checked_name(name)):
            return self._shelf.about(name)

    def checked(
        self, ids: Sequence[str], metadata: Sequence[Metadata] | None
    ) -> tuple[Sequence[str], Sequence[Metadata]]:
        """Ids and metadata that can be kept: before the effort of embedding. Raises Refused (422)."""
        for number, one in enumerate(ids):
            if len(one) > self.limits.id_characters:
                detail = f"This id has more than {self.limits.id_characters} characters: shorten it."
                raise Refused(422, "invalid_id", detail, index=number)
        try:
            fields = checked_metadata(metadata, len(ids))
        except InvalidArgument as error:
            raise Refused(422, "invalid_metadata", sentence(str(error))) from error
        return _checked(ids), fields

    def make(self, name: str, kind: Kind) -> About:
        """The gallery, which is made when there is none."""
        with self._refusing(checked_name(name)), self._lock:
            found = self._shelf.about(name)
            if found is None:
                self._made(name, kind)
                found = self.about(name)
            require(found.kind, kind)
            return found

    def add(
        self, name: str, kind: Kind, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata] | None = None
    ) -> int:
        """Add or replace items, durably, and make the gallery when there is none; returns how many items it has then.

        kind: of the vectors (N, D). Raises as `checked` does.
        """
        names, fields = self.checked(ids, metadata)
        size = 4 * vectors.size + sum(map(_bytes_of, names, fields))
        with self._refusing(name), self._lock:
            gallery = self._shelf.open(name)
            if gallery is not None:
                require(gallery.kind, kind)
            self._check_room(gallery, names, size)
            if gallery is None:
                gallery = self._made(name, kind)
            gallery.add(names, vectors, fields)
            return gallery.count()

    def search(self, name: str, kind: Kind, vectors: Vectors, k: int, where: Where | None = None) -> Found:
        """The k nearest items to each query, as `Gallery.search`; kind: of the queries. Raises InvalidArgument."""
        if where is not None and len(where) > self.limits.conditions:
            detail = f"where has at most {self.limits.conditions} conditions, not {len(where)}."
            raise Refused(422, "invalid_option", detail)

        def find(gallery: Gallery) -> Found:
            require(gallery.kind, kind)
            return gallery.search(vectors, k, where)

        return self._read(name, find)

    def items(self, name: str, offset: int = 0, limit: int | None = None) -> Sequence[Item]:
        """A page of a gallery's items, in its own order."""
        return self._read(name, lambda gallery: gallery.items(offset, limit))

    def export(self, name: str) -> Export:
        """All of a gallery as the blocks of an npz file, which the caller must close. Raises Refused (503) when too
        many are open.
        """
        if not self._places.acquire(blocking=False):
            detail = "Too many galleries are being exported already. Try again shortly."
            raise Refused(503, "busy", detail, {"retry-after": "10"})
        export = None
        try:
            gallery = self._read(name, lambda found: found)
            export = Export(gallery.kind, self._work, self._places.release)
            with self._refusing(name):
                export.copy(gallery)
        except BaseException:
            export.close() if export else self._places.release()
            raise
        return export

    def delete_items(self, name: str, ids: Sequence[str]) -> int:
        """Take items out; how many of them were there."""
        names = _checked(ids)
        with self._refusing(checked_name(name)), self._lock:
            return self._read(name, lambda gallery: gallery.delete(names))

    def delete(self, name: str) -> None:
        """Take a gallery away with all that is in it."""
        with self._refusing(checked_name(name)), self._lock:
            if not self._shelf.drop(name):
                _unknown(name)

    def close(self) -> None:
        """Let go of connections."""
        self._shelf.close()

    def _made(self, name: str, kind: Kind) -> Gallery:
        if len(self._shelf.names()) >= self.limits.galleries:
            detail = f"There are {self.limits.galleries} galleries, which is the limit here: delete one first."
            raise Refused(409, "too_many_galleries", detail)
        return self._shelf.make(name, kind)

    def _check_room(self, gallery: Gallery | None, names: Sequence[str], size: int) -> None:
        """Before anything is written."""
        count = 0 if gallery is None else gallery.count()
        if gallery is not None and count + len(names) > self.limits.items:
            count -= len({item.id for item in gallery.items()} & set(names))  # they are replaced
        if count + len(names) > self.limits.items:
            detail = f"A gallery holds at most {self.limits.items} items here: delete some first."
            raise Refused(409, "gallery_full", detail)
        if self._shelf.used() + size > self.limits.gallery_bytes:
            detail = "The galleries are full (all together): delete some items first."
            raise Refused(409, "store_full", detail)

    def _read(self, name: str, work: Callable[[Gallery], Answer]) -> Answer:
        """Reading waits for nobody: the gallery may be deleted and made anew meanwhile, and then is read again."""
        with self._refusing(checked_name(name)):
            for _ in range(self._shelf.attempts - 1):
                with contextlib.suppress(InvalidGallery):
                    return work(self._shelf.open(name) or _unknown(name))
            return work(self._shelf.open(name) or _unknown(name))

    @contextlib.contextmanager
    def _refusing(self, name: str) -> Iterator[None]:
        try:
            yield
        except InvalidGallery as error:
            raise self._shelf.explain(name, error) from error
        except OSError as error:
            raise unavailable(error) from error


def require(found: Kind, wanted: Kind) -> None:
    """Raises Refused (409) unless vectors of the two kinds can be compared."""
    if found != wanted:
        detail = f"The gallery holds embeddings of {found}, not of {wanted}, and these cannot be compared."
        raise Refused(409, "other_embeddings", f"{detail} Name that model and space, or another gallery.")


def _checked(ids: Sequence[str]) -> Sequence[str]:
    try:
        return checked_ids(ids)
    except InvalidArgument as error:
        raise Refused(422, "invalid_id", sentence(str(error))) from error


def _unknown(name: str) -> NoReturn:
    raise Refused(404, "unknown_gallery", f"There is no gallery {name}. GET /v1/galleries lists them.")


def _bytes_of(name: str, fields: Metadata) -> int:
    return len(name.encode()) + len(msgspec.json.encode(fields))


@dataclass(frozen=True)
class Named:
    """A head's name, its card, and the bytes of its file."""

    name: str
    card: HeadCard
    bytes: int


class HeadStore:
    """The heads of the service. Methods block, `get` hardly; several threads and processes may call them.

    They raise Refused: 422 for a name that is none, 409 for one that is taken and for what would pass a limit, 503 when
    the disk fails, 500 for a damaged file; and UnknownHead.
    """

    def __init__(self, folder: Path, lock: WriteLock, limits: Limits) -> None:
        """folder: where the files lie; it is there already. What a killed writer left is removed. Raises OSError."""
        self._folder, self._lock = folder, lock
        self._guard = threading.Lock()
        self._held: OrderedDict[str, tuple[_Version, CustomHead]] = OrderedDict()
        self.limits = limits
        with self._lock:
            self._sweep()

    def get(self, name: str) -> CustomHead:
        """The head. Read from the disk only when it changed, so that it may be asked for on the event loop."""
        return self._read(name)[0]

    def show(self, name: str) -> Named:
        """What the head is."""
        head, size = self._read(name)
        return Named(name, head.card, size)

    def list(self) -> Sequence[Named]:
        """All of them, by name; damaged ones are left out."""
        found = []
        for name in self._names():
            with contextlib.suppress(UnknownHead, Refused):
                found.append(self.show(name))
        return found

    def create(self, name: str, head: CustomHead, *, replace: bool = False) -> Named:
        """Keep a head, durably. replace: in place of one of the same name."""
        data = encode_head(head)
        if len(data) > self.limits.head_bytes:
            raise Refused(409, "head_too_large", f"A head has at most {self.limits.head_bytes} bytes here.")
        try:
            with self._lock:
                self._sweep()
                self.check_room(name, replace=replace)
                with atomic_file(self._place(name)) as file:
                    file.write(data)
                sync_folder(self._folder)
        except OSError as error:
            raise unavailable(error) from error
        return Named(name, head.card, len(data))

    def check_room(self, name: str, *, replace: bool = False) -> None:
        """Whether a head of this name could be created now: before an effort, not after."""
        there = self._place(name).exists()
        if there and not replace:
            detail = f"There is a head {name} already: delete it, choose another name, or say replace=true."
            raise Refused(409, "head_exists", detail)
        if not there and len(self._names()) >= self.limits.heads:
            detail = f"There are {self.limits.heads} heads, which is the limit here: delete one first."
            raise Refused(409, "too_many_heads", detail)

    def delete(self, name: str) -> None:
        """Take a head away, whatever state its file is in."""
        try:
            with self._lock:
                self._place(name).unlink()
                sync_folder(self._folder)
        except FileNotFoundError:
            raise self._unknown(name) from None
        except OSError as error:
            raise unavailable(error) from error
        with self._guard:
            self._held.pop(name, None)

    def _read(self, name: str) -> tuple[CustomHead, int]:
        path = self._place(name)
        try:
            status = os.stat(path)
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            with self._guard:
                held, head = self._held.get(name, (None, None))
            if head is None or held != version:
                head = CustomHead.load(path)
                self._keep(name, version, head)
        except FileNotFoundError:
            raise self._unknown(name) from None
        except InvalidHead as error:
            if not path.exists():  # deleted while it was read
                raise self._unknown(name) from None
            if isinstance(error.__cause__, OSError):
                raise unavailable(error) from error
            logger.error("the head %r cannot be used: %s", name, error)
            detail = "The head's file is damaged. The server's log says how."
            raise Refused(500, "head_damaged", detail) from error
        except OSError as error:
            raise unavailable(error) from error
        return head, status.st_size

    def _keep(self, name: str, version: _Version, head: CustomHead) -> None:
        with self._guard:
            self._held[name] = (version, head)
            self._held.move_to_end(name)
            while len(self._held) > HEADS_HELD:
                self._held.popitem(last=False)

    def _names(self) -> Sequence[str]:
        stems = (path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}"))
        return sorted(name for name in map(name_of, stems) if name is not None)

    def _place(self, name: str) -> Path:
        return self._folder / f"{stem_of(checked_name(name))}{SUFFIX}"

    def _unknown(self, name: str) -> UnknownHead:
        return UnknownHead(f"there is no head {name} here{nearest(name, self._names())}")

    def _sweep(self) -> None:
        """Take away what a killed writer left. Nobody else writes now."""
        for left in self._folder.glob(f".*{SUFFIX}.*"):
            left.unlink(missing_ok=True)
