"""Threads: a limit on the work that runs or waits, also on work that nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serve.engine import Room, Threads
from serve.problems import Refused


def test_threads__refuse_work_beyond_the_limit() -> None:
    async def run() -> None:
        threads, go = Threads("threads", 1, Room(2, "Too much at once.")), threading.Event()
        waiting = [asyncio.create_task(threads.run(lambda: go.wait(120))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="Too much at once"):
            await threads.run(go.is_set)
        waiting[0].cancel()  # its thread goes on, and counts
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="Too much at once"):
            await threads.run(go.is_set)
        go.set()
        assert await waiting[1]
        assert await threads.run(go.is_set)
        threads.close()

    asyncio.run(run())
