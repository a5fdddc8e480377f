"""Threads for blocking work, with a limit on what runs or waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serve.budget import busy

T = TypeVar("T")


class Threads:
    """At most `most` pieces of work run or wait. Abandoned work counts until its thread ends it."""

    def __init__(
        self, name: str, threads: int, most: int, reason: str, initializer: Callable[[], object] | None = None
    ) -> None:
        """reason: why work is refused. initializer: runs first in each thread."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=initializer)
        self._most, self._reason = most, reason
        self._guard = threading.Lock()
        self._inside = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises Refused (503) if too much work is running or waiting."""
        with self._guard:
            if self._inside >= self._most:
                raise busy(self._reason)
            self._inside += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._ended)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Start no more work; do not wait for running work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, _: object) -> None:
        with self._guard:
            self._inside -= 1
