"""What clients store: galleries of their photos' embeddings, and heads for their own classes.

Photos are never kept. Everything is in one data folder, whose format `leap_zoo` defines; galleries may be on a Qdrant
server instead. All methods block while they wait for a disk or a server: call them through `Stores.threads`.
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
MOST = 64  # running and waiting, in total

T = TypeVar("T")


class Threads:
    """Threads that wait for disks and other servers, so that the engine's threads do not. For one event loop.

    Only one of them writes: writers take turns anyway, and waiting writers would occupy the readers' threads.
    """

    def __init__(self, threads: int = THREADS, most: int = MOST) -> None:
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="stores")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._most = most
        self._guard = threading.Lock()
        self._inside: Counter[ThreadPoolExecutor] = Counter()

    async def run(self, work: Callable[[], T], *, given_up: Callable[[T], object] | None = None) -> T:
        """The result of `work`. Raises Refused (503) if too much is waiting. Abandoned work counts until it ends.

        given_up: called with a result that nobody waits for.
        """
        return await self._run(self._readers, work, given_up)

    async def write(self, work: Callable[[], T]) -> T:
        """Like `run`, for work that writes."""
        return await self._run(self._writer, work, None)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T], given_up: Callable[[T], object] | None) -> T:
        with self._guard:
            if self._inside[pool] >= self._most:
                detail = "Too many requests are reading or writing stored data. Try again shortly."
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
        """Start no more work; do not wait for running work."""
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
        """Close connections, and delete the folder if it is temporary."""
        self.threads.close()
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
