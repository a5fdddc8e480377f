"""Work of seconds, on a thread beside the engine's: as fitting a head, which must not keep photos waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from serve.problems import Refused

NICENESS = 5
"""How far behind the engine's threads this one stands for a core; they share the cores with it."""

T = TypeVar("T")


class Aside:
    """One thread, and no queue. For one event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="aside", initializer=_stand_back)
        self._last: Future[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises Refused (503) while other work is under way, also such as was given up."""
        if self._last is not None and not self._last.done():
            detail = "Another head is being fitted. Try again shortly."
            raise Refused(503, "busy", detail, {"retry-after": "5"})
        future = self._last = self._pool.submit(work)
        return await asyncio.wrap_future(future)


def _stand_back() -> None:
    """On Linux a thread has a niceness of its own; elsewhere the whole process would step back."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
