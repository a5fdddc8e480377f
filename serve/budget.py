"""The budget of a process: bytes in memory, places and time, for everything that is read or written.

Every request holds a `Share`. A body that arrives and an answer that is sent count against the same bytes, and both
have a deadline. When the bytes run out, the request that holds the most while it waits for its client is dropped, so
that clients who send or read slowly cannot keep others out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope, Send

from serve.problems import Refused

READ_SECONDS = 30.0
"""How long a client may take to send one body."""

WRITE_SECONDS = 15.0
"""How long a client may take to read one slice of an answer."""

WRITE_RATE = 64 * 1024
"""The rate, in bytes per second, at which a client must read an answer after WRITE_SECONDS."""

SLICE = 64 * 1024
"""Bytes that are written at once: what a client has not read stays here, not in the server's socket buffers."""

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and discarded, so that a client still sending can read the answer."""

LONG_SECONDS = 30.0
"""A transfer that has lasted this long gives up its place to a new one when all places are taken."""


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
                raise busy("Other requests fill the memory that there is for them.")
            largest.give_way()

    def free(self, share: Share) -> None:
        """Release all bytes of `share`."""
        self.held -= share.size
        share.size = 0


class Share:
    """One request's part of a budget; it reads from and writes to the client."""

    def __init__(self, budget: Budget, connection: Send) -> None:
        """connection: the server's own `send`; the connection is dropped if the client does not read."""
        self.size = 0
        self._budget = budget
        self._connection = connection
        self._clock: asyncio.Timeout | None = None
        self.gave_way = False

    def give_way(self) -> None:
        """Stop waiting for the client and free the bytes, at the next turn of the event loop."""
        if self._clock is not None and not self.gave_way:
            self.gave_way = True
            self._budget.free(self)
            self._clock.reschedule(asyncio.get_running_loop().time())

    def free(self) -> None:
        """Release all bytes."""
        self._budget.free(self)

    async def read(self, receive: Receive, most: int, announced: int | None) -> bytes | None:
        """The body, at most `most` bytes; None if the client disconnected before its end.

        Raises Unread: 413 for a larger one, 408 for a slow one, 503 when it must give way.
        """
        if announced is not None and announced > most:
            raise Unread(_too_large(most), still_sent=True)
        chunks: list[bytes] = []
        more = True
        try:
            with self._waits(READ_SECONDS) as clock:
                async with clock:
                    while more:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            return None
                        more = message.get("more_body", False)
                        chunk = message.get("body", b"")
                        if self.size + len(chunk) > most:
                            raise Unread(_too_large(most), still_sent=more)
                        self._budget.take(self, len(chunk))
                        chunks.append(chunk)
        except TimeoutError:
            if self.gave_way:
                refused = busy("Other requests fill the memory that there is for them.")
            else:
                detail = f"The body did not arrive within {READ_SECONDS:.0f} seconds. Send a smaller photo."
                refused = Refused(408, "body_too_slow", detail)
            raise Unread(refused, still_sent=True) from None
        except Refused as refused:
            raise Unread(refused, still_sent=more) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def write(self, start: Message, body: bytes, send: Send) -> None:
        """Send a whole answer. Drops the connection of a client that does not read in time: raises ClientGone."""
        self._budget.take(self, len(body))
        try:
            async with asyncio.timeout(WRITE_SECONDS + len(body) / WRITE_RATE):
                await self.pass_on(start, send)
                await self.pass_on({"type": "http.response.body", "body": body, "more_body": False}, send)
        except TimeoutError:
            await _cut_off(self._connection)

    async def pass_on(self, message: Message, send: Send) -> None:
        """Send one message of an answer, its body slice by slice, each of which must be read in time; as `write`."""
        body, more = message.get("body", b""), message.get("more_body", False)
        try:
            for at in range(0, max(1, len(body)), SLICE):
                if len(body) > SLICE:
                    message = {**message, "body": body[at : at + SLICE], "more_body": more or at + SLICE < len(body)}
                with self._waits(WRITE_SECONDS) as clock:
                    async with clock:
                        await send(message)
        except TimeoutError:
            await _cut_off(self._connection)

    @contextmanager
    def _waits(self, seconds: float) -> Iterator[asyncio.Timeout]:
        self._clock = asyncio.timeout(seconds)
        self._budget.waiting[self] = None
        try:
            yield self._clock
        finally:
            self._clock = None
            del self._budget.waiting[self]


class Places:
    """Limits how many requests are handled at once. For one event loop.

    makes_room: a request that has lasted LONG_SECONDS and waits for its client gives way to a new one.
    """

    def __init__(self, limit: int, *, makes_room: bool = False) -> None:
        self.limit = limit
        self._makes_room = makes_room
        self._inside: dict[Share, float] = {}

    @property
    def taken(self) -> int:
        """How many requests are handled now."""
        return len(self._inside)

    def check(self) -> None:
        """Raises Refused (503) if all places are taken: checked before the body is read."""
        if len(self._inside) >= self.limit and not (self._makes_room and self._oldest_is_long()):
            raise busy(f"{self.limit} requests are being answered already.")

    @contextmanager
    def one(self, share: Share) -> Iterator[None]:
        """A place for a request. Raises Refused (503)."""
        self.check()
        if len(self._inside) >= self.limit:
            oldest = next(iter(self._inside))
            del self._inside[oldest]
            oldest.give_way()
        self._inside[share] = time.monotonic()
        try:
            yield
        finally:
            self._inside.pop(share, None)

    def _oldest_is_long(self) -> bool:
        return time.monotonic() - next(iter(self._inside.values())) > LONG_SECONDS


class Unread(Exception):
    """A body that was not read to its end, and the refusal. still_sent: the client may still be sending."""

    def __init__(self, refused: Refused, *, still_sent: bool) -> None:
        super().__init__(refused.detail)
        self.refused = refused
        self.still_sent = still_sent


class ClientGone(Exception):
    """The client did not read its answer, and the connection was dropped."""


def busy(reason: str) -> Refused:
    """The refusal of an overloaded server."""
    return Refused(503, "busy", f"{reason} Try again shortly.", {"retry-after": "1"})


def announced_length(scope: Scope) -> int | None:
    """Content-Length; None if the client gives none."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


async def linger(receive: Receive) -> None:
    """Discard what a refused client still sends, for a moment: closing at once would lose the answer."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass


def _too_large(most: int) -> Refused:
    limit = f"{most / 2**20:.3g} MiB" if most >= 2**20 else f"{most} bytes"
    return Refused(413, "body_too_large", f"The body is larger than {limit}. Send a smaller photo, or fewer.")


async def _cut_off(send: Send) -> None:
    """Drop the connection and its unsent data: closing it would wait for the client to read that."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)  # uvicorn's
    if transport is not None:
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    raise ClientGone
