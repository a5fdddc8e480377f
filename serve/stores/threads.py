"""Threads that wait for disks and for other servers, so that none of the engine's does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from serve.problems import Refused

THREADS = 8
MOST = 64  # under way and waiting, together

T = TypeVar("T")


class Threads:
    """A pool of its own. For one event loop."""

    def __init__(self, threads: int = THREADS, most: int = MOST) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stores")
        self._most = most
        self._guard = threading.Lock()
        self._inside = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises Refused (503) when too much is waiting; what was given up counts to its end."""
        with self._guard:
            if self._inside >= self._most:
                detail = "Too much that is kept here is being read or written already. Try again shortly."
                raise Refused(503, "busy", detail, {"retry-after": "2"})
            self._inside += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._ended)
        return await asyncio.wrap_future(future)

    def _ended(self, _: Future[Any]) -> None:
        with self._guard:
            self._inside -= 1

    def close(self) -> None:
        """Begin nothing more; what is under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
