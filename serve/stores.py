"""What clients leave here for later: galleries of their photos' embeddings, and heads for their own classes.

Photos are never kept. Everything lies in one data folder, whose format belongs to `leap_zoo`; galleries may lie on a
Qdrant server instead. All methods block for as long as a disk or a server takes: call them through `Stores.threads`.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from leap_zoo.errors import InvalidArgument, short
from serve.galleries import FolderGalleries, Galleries, QdrantGalleries
from serve.heads import Heads
from serve.kept import Limits, logger
from serve.problems import Refused

__all__ = ["Limits", "Stores", "Threads", "open_stores"]

THREADS = 8
MOST = 64  # under way and waiting, together

T = TypeVar("T")


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

    galleries: Galleries
    heads: Heads
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
    work = data / "work"
    galleries = QdrantGalleries(qdrant, work, bounds) if qdrant else FolderGalleries(data / "galleries", work, bounds)
    return Stores(galleries, Heads(data / "heads", work, bounds), bounds, temporary=temporary)
