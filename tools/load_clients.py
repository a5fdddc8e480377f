"""Clients that ask over and over, and know of every request what became of it: answered, refused, or lost.

A request is lost when it was sent over a connection that the server had not closed by then, and no whole answer came.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from tools.http_load import whole_answer

ANSWER_SECONDS = 60.0
NEW_CONNECTION_SECONDS = 0.05  # between two attempts while nobody listens


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: seconds, as of time.monotonic, of its sending and its end; the status, or 0 for a lost one."""

    sent: float
    ended: float
    status: int
    retry_after: bool = False
    why: str = ""

    @property
    def milliseconds(self) -> float:
        """From sending to the last byte of the answer."""
        return (self.ended - self.sent) * 1000


@dataclass
class Record:
    """What became of all requests of a run.

    refused: attempts to connect in vain. late: milliseconds by which the client itself began a request too late, as
    far as requests have a time of their own; its answers are read as late as that.
    """

    asked: list[Asked] = field(default_factory=list)
    refused: int = 0
    late: list[float] = field(default_factory=list)

    @property
    def lost(self) -> list[Asked]:
        """The requests without an answer."""
        return [one for one in self.asked if not one.status]

    def with_status(self, status: int) -> list[Asked]:
        """The requests that were answered with it."""
        return [one for one in self.asked if one.status == status]


class Connection:
    """A keep-alive connection to the loopback, made when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    async def ask(self, request: bytes, record: Record) -> Asked | None:
        """Send `request` and wait for its answer, which is recorded. None: nobody listens."""
        try:
            connection = await self._open()
        except OSError:
            self.close()
            record.refused += 1
            return None
        sent = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.get_running_loop().sock_sendall(connection, request)
                status, head = await self._answer(connection)
        except (OSError, TimeoutError, EOFError) as error:
            self.close()
            asked = Asked(sent, time.monotonic(), 0, why=type(error).__name__)
        else:
            asked = Asked(sent, time.monotonic(), status, b"\r\nretry-after:" in head)
            if b"\r\nconnection: close" in head:
                self.close()
        record.asked.append(asked)
        return asked

    def close(self) -> None:
        """Leave; the next request makes a new connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _open(self) -> socket.socket:
        if self._socket is not None and _is_closed(self._socket):
            self.close()
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(self._socket, ("127.0.0.1", self._port))
        return self._socket

    @staticmethod
    async def _answer(connection: socket.socket) -> tuple[int, bytes]:
        """The status and the head in small letters, once the body is there."""
        received = b""
        while True:
            part = await asyncio.get_running_loop().sock_recv(connection, 1 << 18)
            if not part:
                raise EOFError
            received += part
            if (answer := whole_answer(received)) is not None:
                return answer


def _is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed this idle connection already."""
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextlib.asynccontextmanager
async def busy_clients(
    port: int, request: bytes, clients: int, *, thinking: float = 0.0, seed: int = 0
) -> AsyncIterator[Record]:
    """`clients` that ask until the block ends, each over its own connection; then they wait for their last answers.

    thinking: the mean of the seconds, exponentially distributed, between an answer and the next request.
    """
    record, stopped = Record(), asyncio.Event()
    clock = random.Random(seed)

    async def run() -> None:
        connection = Connection(port)
        while not stopped.is_set():
            if thinking:
                await asyncio.sleep(clock.expovariate(1 / thinking))
            if await connection.ask(request, record) is None:
                await asyncio.sleep(NEW_CONNECTION_SECONDS)
        connection.close()

    tasks = [asyncio.create_task(run()) for _ in range(clients)]
    try:
        yield record
    finally:
        stopped.set()
        await asyncio.gather(*tasks)


async def arrivals(
    port: int, request: bytes, rate: float, seconds: float, step: Callable[[], object], *, seed: int = 0
) -> Record:
    """Requests at random moments (a Poisson process of `rate` per second), whether earlier ones are answered or not.

    step: called after each answer.
    """
    record, clock = Record(), random.Random(seed)
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        connection = idle.pop() if idle else Connection(port)
        await connection.ask(request, record)
        idle.append(connection)
        step()

    started = due = time.monotonic()
    while due - started < seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        record.late.append((time.monotonic() - due) * 1000)
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += clock.expovariate(rate)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return record
