"""Trials of a server under load, and their results: stops, kills, overload, many requests."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import psutil

from tools.load_clients import Asked, Connection, Record, arrivals, busy_clients
from tools.server_process import ServerProcess

CLIENTS = 8
CLIENTS_AT_STOP = 24  # and as many more that think; together fewer than the server takes at once
THINKING = 0.5  # mean seconds
RECOVERY_SECONDS = 60.0
CAPACITY_SECONDS = 5.0
_ALONE = 200  # requests of one client before and after an overload
_TAB = b"GET /ui/gradio_api/heartbeat/tab HTTP/1.1\r\nHost: load\r\n\r\n"

Step = Callable[[], object]


async def stop_under_load(server: ServerProcess, request: bytes, seconds: float = 2.0) -> dict[str, Any]:
    """SIGTERM while CLIENTS_AT_STOP ask without a pause, as many more with pauses, and a tab of the page is open."""
    async with _open_tab(server.port), _crowd(server.port, request) as records:
        await asyncio.sleep(seconds)
        told = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, RECOVERY_SECONDS)
        ended = time.monotonic()
    asked = [one for record in records for one in record.asked]
    return {
        "answered": sum(one.status == 200 for one in asked),
        "answered_after_signal": sum(one.status == 200 and one.ended > told for one in asked),
        "other_statuses": _statuses(asked),
        "lost": [one.why for one in asked if not one.status],
        "end_seconds": round(ended - told, 2),
        "end_after_last_answer_seconds": round(
            ended - max((one.ended for one in asked if one.status), default=told), 2
        ),
    }


async def kill_under_load(server: ServerProcess, request: bytes, seconds: float = 2.0) -> dict[str, Any]:
    """SIGKILL of the worker while CLIENTS ask, then again until one has its answer, and a second of peace after."""
    (worker,) = psutil.Process(server.process.pid).children()
    async with busy_clients(server.port, request, CLIENTS) as record:
        await asyncio.sleep(seconds)
        killed = time.monotonic()
        worker.kill()
        back = await _first_answer(record, killed)
        await asyncio.sleep(1)
    late = [one for one in record.lost if one.sent > killed]
    return {
        "answered": len(record.with_status(200)),
        "other_statuses": _statuses(record.asked),
        "lost_in_flight": len(record.lost) - len(late),
        "lost_later": len(late),
        "refused": record.refused,
        "back_seconds": round(back - killed, 2),
    }


async def overload(server: ServerProcess, request: bytes, seconds: float, step: Step) -> dict[str, Any]:
    """Twice as many requests per second as CLIENTS x 4 in a closed loop get answered, at random moments."""
    before = await _alone(server.port, request)
    async with busy_clients(server.port, request, 4 * CLIENTS) as record:
        await asyncio.sleep(CAPACITY_SECONDS)
        capacity = len(record.with_status(200)) / CAPACITY_SECONDS
    memory = _memory(server)
    crowd = await arrivals(server.port, request, 2 * capacity, seconds, step)
    await asyncio.sleep(1)
    after = await _alone(server.port, request)
    busy = crowd.with_status(503)
    return {
        "seconds": seconds,
        "capacity_per_second": round(capacity, 1),
        "offered_per_second": round(2 * capacity, 1),
        "requests": len(crowd.asked),
        "client_late": _spread(crowd.late),
        "accepted": _times(crowd.with_status(200)),
        "busy": _times(busy) | {"with_retry_after": sum(one.retry_after for one in busy)},
        "other_statuses": {status: n for status, n in _statuses(crowd.asked).items() if status != "503"},
        "lost": len(crowd.lost),
        "refused": crowd.refused,
        "alone_before": before,
        "alone_after": after,
        "memory_mb": {"before": memory, "after": _memory(server)},
    }


async def many_requests(
    server: ServerProcess, request: bytes, requests: int, every: int, warm_up: int, step: Step
) -> dict[str, Any]:
    """Memory of the worker each `every` of `requests` by CLIENTS; a slope over those after `warm_up`."""
    record, numbers = Record(), iter(range(requests))
    memory: list[tuple[int, float]] = []

    async def run() -> None:
        connection = Connection(server.port)
        for _ in numbers:
            await connection.ask(request, record)
            step()
            if len(record.asked) % every == 0:
                memory.append((len(record.asked), _memory(server)))
        connection.close()

    await asyncio.gather(*(run() for _ in range(CLIENTS)))
    counted = [(number, megabytes) for number, megabytes in memory if number >= warm_up]
    slope = statistics.linear_regression(*zip(*counted, strict=True)).slope if len(counted) > 1 else 0.0
    return {
        "requests": len(record.asked),
        "other_statuses": _statuses(record.asked),
        "lost": len(record.lost),
        "memory_mb": dict(memory),
        "warm_up": warm_up,
        "first_mb": counted[0][1],
        "last_mb": counted[-1][1],
        "slope_kb_per_1000": round(slope * 1e6, 1),
    }


@contextlib.asynccontextmanager
async def _crowd(port: int, request: bytes) -> AsyncIterator[tuple[Record, Record]]:
    async with (
        busy_clients(port, request, CLIENTS_AT_STOP) as busy,
        busy_clients(port, request, CLIENTS_AT_STOP, thinking=THINKING) as thoughtful,
    ):
        yield busy, thoughtful


@contextlib.asynccontextmanager
async def _open_tab(port: int) -> AsyncIterator[None]:
    """The event stream that a page of Gradio holds for as long as it is open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_TAB)
    await reader.readuntil(b"ALIVE")
    try:
        yield
    finally:
        writer.close()


async def _first_answer(record: Record, since: float) -> float:
    """The moment of the first answer to a request that was sent after `since`. Raises TimeoutError."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            for one in reversed(record.asked):
                if one.ended < since:
                    break
                if one.status == 200 and one.sent > since:
                    return one.ended
            await asyncio.sleep(0.01)


async def _alone(port: int, request: bytes) -> dict[str, float]:
    record, connection = Record(), Connection(port)
    for _ in range(_ALONE):
        await connection.ask(request, record)
    connection.close()
    return _times(record.with_status(200))


def _times(asked: Sequence[Asked]) -> dict[str, float]:
    return _spread([one.milliseconds for one in asked])


def _spread(milliseconds: Sequence[float]) -> dict[str, float]:
    """How many, and their percentiles."""
    times = sorted(milliseconds)
    if not times:
        return {"n": 0}
    percent = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {"n": len(times)} | {
        f"{name}_ms": round(times[min(len(times) - 1, int(part * len(times)))], 2) for name, part in percent.items()
    }


def _statuses(asked: Sequence[Asked]) -> dict[str, int]:
    """How many answers have another status than 200."""
    return {str(status): n for status, n in Counter(one.status for one in asked).items() if status not in (0, 200)}


def _memory(server: ServerProcess) -> float:
    """Resident megabytes of the worker, which is the only child."""
    return round(server.workers()[0].memory_info().rss / 1e6, 2)
