"""How much a client may send: BentoML and Starlette have no limit of their own, so this layer stands before both."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leap_zoo.preprocess import MAX_BYTES
from serve.problems import Refused

MAX_BODY_BYTES = MAX_BYTES + 64 * 1024
"""The largest photo that `leap_zoo` reads, and room for the multipart form around it."""

BODY_SECONDS = 30.0
"""How long a client may take over sending one body."""

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is thrown away, so that a client still sending can read the answer."""


class BodyLimit:
    """Reads a request's body, at most `max_bytes` of it within `seconds`, before `app` sees the request.

    Counting while streaming is what holds for chunked bodies, which announce no length. A body read whole also keeps
    a slow upload from spending the time-out meant for the model.
    """

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES, seconds: float = BODY_SECONDS) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except Refused as refused:
            await _answer_while_sending(refused, scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None when the client left before its end."""
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.max_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self.max_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            detail = f"The body did not arrive within {self.seconds:.0f} seconds. Send a smaller photo."
            raise Refused(408, "body_too_slow", detail) from None

    def _too_large(self) -> Refused:
        limit = self.max_bytes / 2**20
        return Refused(413, "body_too_large", f"The body is larger than {limit:.2g} MiB. Send a smaller photo.")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once and then waits for the client to leave."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _answer_while_sending(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
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
