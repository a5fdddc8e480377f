"""The budget of a process: bytes in memory, places and time, for everything that is read or written.

Every request holds a `Share`. A body that arrives and an answer that is sent count against the same bytes, and both
have a deadline. When the bytes run out, the request that holds the most while it waits for its client is dropped, so
that clients who send or read slowly cannot keep others out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping

from starlette.types import Message, Receive, Send

from serve.problems import Refused

READ_SECONDS = 30.0  # how long a client may take to send one body
WRITE_SECONDS = 15.0  # how long a client may take to read one slice of an answer
# Bytes that are written at once: what a client has not read stays here, not in the server's socket buffers.
SLICE = 64 * 1024
SHORT_BODY = 1024  # bytes of a body without photos, such as a small JSON object. The rest of one can be awaited.
# How long the rest of a refused body is read and discarded, so that a client still sending can read the answer.
LINGER_SECONDS = 2.0
LONG_SECONDS = 30.0  # a transfer that has lasted this long gives up its place to a new one when all places are taken
REFUSALS = 50.0  # refusals in a second that are sent at once; those beyond wait, for at most PATIENCE_SECONDS
PATIENCE_SECONDS = 1.0

MAX_PATIENT = 1024  # refusals that wait; further ones are sent at once
_FULL = "Other requests fill the memory that there is for them."


class Budget:
    """The bytes that all requests of a process hold in total. For one event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self.waiting: dict[Share, None] = {}  # shares that wait for their client now

    def take(self, share: Share, size: int) -> None:
        """Count `size` more bytes for `share`. Raises Refused (503) if this share must give way."""
        share.size += size
        self.held += size
        if self.held > self.most:
            largest = max(self.waiting, key=lambda one: one.size, default=share)
            if largest.size <= share.size:
                raise busy(_FULL)
            largest.give_way()


class Share:
    """One request's part of a budget; it reads from and writes to the client.

    received: bytes of its body. still_sent: whether the client may still be sending that; before the body is read,
    whether the rest is long. clock: of its wait for the client, if it waits now.
    """

    def __init__(self, budget: Budget, connection: Send, headers: Mapping[bytes, bytes]) -> None:
        """connection: the server's own `send`; the connection is dropped if the client does not read."""
        self.size = self.received = 0
        length = headers.get(b"content-length", b"")
        self._announced = int(length) if length.isdigit() and len(length) < 20 else 0
        self.still_sent = b"transfer-encoding" in headers or self._announced > SHORT_BODY
        self._budget = budget
        self._connection = connection
        self.clock: asyncio.Timeout | None = None
        self._gave_way = False

    def give_way(self) -> None:
        """Stop waiting for the client and free the bytes, at the next turn of the event loop."""
        if self.clock is not None and not self._gave_way:
            self._gave_way = True
            self.free()
            self.clock.reschedule(asyncio.get_running_loop().time())

    def free(self) -> None:
        """Release all bytes."""
        self._budget.held -= self.size
        self.size = 0

    async def read(self, receive: Receive, most: int) -> bytes | None:
        """The body, at most `most` bytes; None if the client disconnected before its end.

        Raises Refused: 413 for a larger one, 408 for a slow one, 503 when it must give way.
        """
        if self._announced > most:
            raise _too_large(most)
        self.still_sent = True
        chunks: list[bytes] = []
        try:
            async with self._waits(READ_SECONDS):
                while self.still_sent:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    self.still_sent = message.get("more_body", False)
                    chunk = message.get("body", b"")
                    self.received += len(chunk)
                    if self.received > most:
                        raise _too_large(most)
                    self._budget.take(self, len(chunk))
                    chunks.append(chunk)
        except TimeoutError:
            if self._gave_way:
                raise busy(_FULL) from None
            detail = f"The body did not arrive within {READ_SECONDS:.0f} seconds. Send a smaller photo."
            raise Refused("body_too_slow", detail) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def write(self, message: Message, send: Send, *, start: Message | None = None) -> None:
        """Send one message of an answer, its body slice by slice, each of which must be read in time.

        start: the answer's start, which is sent with the first slice.
        Drops the connection of a client that does not read: raises ClientGone.
        """
        body, more = message.get("body", b""), message.get("more_body", False)
        try:
            for at in range(0, max(1, len(body)), SLICE):
                if len(body) > SLICE:
                    message = {**message, "body": body[at : at + SLICE], "more_body": more or at + SLICE < len(body)}
                async with self._waits(WRITE_SECONDS):
                    if start is not None and at == 0:
                        await send(start)
                    await send(message)
        except TimeoutError:
            await _cut_off(self._connection)

    @contextlib.asynccontextmanager
    async def _waits(self, seconds: float) -> AsyncIterator[None]:
        self._budget.waiting[self] = None
        try:
            async with asyncio.timeout(seconds) as self.clock:
                yield
        finally:
            self.clock = None
            del self._budget.waiting[self]


class Places:
    """Limits how many requests are handled at once. For one event loop.

    makes_room: a request that has lasted LONG_SECONDS gives way to a new one; it is dropped if it waits for its client.
    keeps_working: only one that waits for its client gives way.
    """

    def __init__(self, limit: int, *, makes_room: bool = False, keeps_working: bool = False) -> None:
        self.limit = limit
        self._makes_room, self._keeps_working = makes_room, keeps_working
        self.inside: dict[Share, float] = {}  # the requests that are handled, and since when

    def check(self) -> None:
        """Raises Refused (503) if all places are taken: checked before the body is read."""
        if len(self.inside) >= self.limit and self._oldest() is None:
            raise busy(f"{self.limit} requests are being answered already.")

    @contextlib.contextmanager
    def one(self, share: Share) -> Iterator[None]:
        """A place for a request. Raises Refused (503)."""
        self.check()
        if len(self.inside) >= self.limit and (oldest := self._oldest()) is not None:
            del self.inside[oldest]
            oldest.give_way()
        self.inside[share] = time.monotonic()
        try:
            yield
        finally:
            self.inside.pop(share, None)

    def _oldest(self) -> Share | None:
        """The request that gives way to a new one."""
        if not self._makes_room:
            return None
        before = time.monotonic() - LONG_SECONDS
        for share, since in self.inside.items():
            if since < before and (share.clock is not None or not self._keeps_working):
                return share
        return None


class Patience:
    """Lets refusals wait for their turn, so that clients that ask again whenever they are refused cost next to nothing.

    A refusal counts as one for each SLICE of a body that was read in vain, and a client's mistake as one more. A client
    that makes a mistake now and then waits for nothing, nor does one with a small photo when all places are taken.
    """

    def __init__(self) -> None:
        self.waiting: set[asyncio.Timeout] = set()
        self._turn = 0.0  # when the next refusal may be sent
        self._ended = False

    async def wait(self, refusals: int) -> None:
        """Return when a refusal that counts as so many may be sent. The caller holds neither a place nor bytes."""
        now = time.monotonic()
        turn = max(self._turn, now - PATIENCE_SECONDS)
        self._turn = min(turn + refusals / REFUSALS, now + PATIENCE_SECONDS)
        if not refusals or self._ended or turn <= now or len(self.waiting) >= MAX_PATIENT:
            return
        clock = asyncio.timeout(turn - now)
        self.waiting.add(clock)
        try:
            with contextlib.suppress(TimeoutError):
                async with clock:
                    await asyncio.get_running_loop().create_future()
        finally:
            self.waiting.discard(clock)

    def end(self) -> None:
        """Send all that wait, and let no other wait: the process stops."""
        self._ended = True
        for clock in self.waiting:
            clock.reschedule(0)


class ClientGone(Exception):
    """The client did not read its answer, and the connection was dropped."""


def busy(reason: str) -> Refused:
    """The refusal of an overloaded server."""
    return Refused("busy", f"{reason} Try again shortly.", {"retry-after": "1"})


async def linger(receive: Receive) -> None:
    """Discard what a refused client still sends, for a moment: closing at once would lose the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass


def _too_large(most: int) -> Refused:
    limit = f"{most / 2**20:.3g} MiB" if most >= 2**20 else f"{most} bytes"
    return Refused("body_too_large", f"The body is larger than {limit}. Send a smaller photo, or fewer.")


async def _cut_off(send: Send) -> None:
    """Drop the connection and its unsent data: closing it would wait for the client to read that."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)  # uvicorn's
    if transport is not None:
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    raise ClientGone
