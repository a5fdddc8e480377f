"""How much a client may send, how many may ask at once, how long an answer may take: BentoML and Starlette limit
neither bodies nor load in a way that suits us, so these layers stand before both.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leap_zoo.preprocess import Limits
from serve import memory
from serve.problems import Refused

PHOTO = Limits(pixels=25_000_000, bytes=20 * 2**20)
"""The largest photo that is read unless the settings say otherwise: anybody may send one."""

MAX_BODY_BYTES = PHOTO.bytes + 64 * 1024
"""The largest photo, and room for the multipart form around it."""

MAX_ALL_BODIES = 512 * 2**20
"""Bytes of bodies in memory at once, of all requests of one BodyLimit together; at least two of the largest fit."""

BODY_SECONDS = 30.0
"""How long a client may take over sending one body."""

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is thrown away, so that a client still sending can read the answer."""


class BodyLimit:
    """Reads a request's body, at most `max_bytes` of it within `seconds`, before `app` sees the request.

    Counting while streaming is what holds for chunked bodies, which announce no length. A body read whole also keeps
    a slow upload from spending the time-out meant for the model.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int = MAX_BODY_BYTES,
        seconds: float = BODY_SECONDS,
        max_all: int = MAX_ALL_BODIES,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds
        self._max_all = max(max_all, 2 * max_bytes)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        chunks: list[bytes] = []
        try:
            if await self._read(chunks, scope, receive):
                await self.app(scope, _replayed(b"".join(chunks), receive), send)
        except _Refusal as refusal:
            size = sum(map(len, chunks))
            self._held -= size
            chunks.clear()
            memory.freed(size)
            answer = answer_while_sending if refusal.is_still_sent else _answer
            await answer(refusal.refused, scope, receive, send)
        finally:
            size = sum(map(len, chunks))
            self._held -= size
            memory.freed(size)

    async def _read(self, chunks: list[bytes], scope: Scope, receive: Receive) -> bool:
        """Take the body into `chunks`. False when the client left before its end."""
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            raise _Refusal(self._too_large())
        size = 0
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    self._held += len(chunks[-1])
                    more = message.get("more_body", False)
                    if size > self.max_bytes:
                        raise _Refusal(self._too_large(), more)
                    if self._held > self._max_all:
                        detail = "The photos of other requests fill the memory that there is for them."
                        raise _Refusal(busy(detail), more)
                    if not more:
                        return True
        except TimeoutError:
            detail = f"The body did not arrive within {self.seconds:.0f} seconds. Send a smaller photo."
            raise _Refusal(Refused(408, "body_too_slow", detail)) from None

    def _too_large(self) -> Refused:
        limit = self.max_bytes / 2**20
        return Refused(413, "body_too_large", f"The body is larger than {limit:.2g} MiB. Send a smaller photo.")


class _Refusal(Exception):
    """Told apart from a Refused of the application, which is not for us to answer."""

    def __init__(self, refused: Refused, is_still_sent: bool = True) -> None:
        super().__init__(refused.detail)
        self.refused = refused
        self.is_still_sent = is_still_sent


class Slots:
    """How many requests may be inside at once, over all applications that share it. For one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    @property
    def full(self) -> bool:
        """Whether the next request would be refused."""
        return self.taken >= self.limit

    def refusal(self) -> Refused:
        """What that one is told."""
        return busy(f"{self.limit} requests are being answered already.")


class InFlight:
    """Takes a slot for each request to `app`, and answers at once with 503 when there is none.

    before_body: only look whether there is one. That goes around a BodyLimit, so that an overloaded server does not
    read what it will refuse; the slot is taken inside, so that a slow sender holds none.
    """

    def __init__(self, app: ASGIApp, slots: Slots, *, before_body: bool = False) -> None:
        self.app = app
        self._slots = slots
        self._before_body = before_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if self._slots.full:
            await refuse(self._slots.refusal(), scope, receive, send)
        elif self._before_body:
            await self.app(scope, receive, send)
        else:
            self._slots.taken += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self._slots.taken -= 1


class TimeLimit:
    """Gives up a request whose answer has not begun after `seconds`. What has begun is not cut off."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        try:
            async with asyncio.timeout(self.seconds) as clock:

                async def watched_send(message: Message) -> None:
                    clock.reschedule(None)
                    await send(message)

                await self.app(scope, receive, watched_send)
        except TimeoutError:
            if not clock.expired():
                raise
            detail = f"No answer within {self.seconds:g} seconds. Send fewer photos, or try again later."
            await Refused(503, "timed_out", detail, {"retry-after": "5"}).response()(scope, receive, send)


def busy(reason: str) -> Refused:
    """The refusal of a server that has enough to do."""
    return Refused(503, "busy", f"{reason} Try again shortly.", {"retry-after": "1"})


async def refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer before the body was read. The connection stays open where the body that still comes is known to end."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_BODY_BYTES:
        await answer_while_sending(refused, scope, receive, send)
    else:
        await _answer(refused, scope, receive, send)


async def _answer(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    await refused.response()(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once and then waits for the client to leave."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def answer_while_sending(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a client that is still sending, then close the connection.

    Closing at once would reset the connection under the client's feet and lose the answer, so what still comes in is
    thrown away for a moment; `connection: close` then ends a sender that never stops.
    """

    async def send_open(message: Message) -> None:
        await send(message | {"more_body": True} if message["type"] == "http.response.body" else message)

    response = refused.response()
    response.headers["connection"] = "close"
    await response(scope, receive, send_open)
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
