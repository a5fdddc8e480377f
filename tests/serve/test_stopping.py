"""Event streams of open pages end when the server stops."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import stopping
from serve.stopping import EndingStreams, Stopping


def endless(kind: bytes) -> ASGIApp:
    """An application whose answer of content type `kind` goes on for half a second."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for _ in range(50):
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"end", "more_body": False})

    return app


@pytest.mark.parametrize(
    ("path", "kind", "last"),
    [
        ("/ui/heartbeat/x", b"text/event-stream; charset=utf-8", b""),
        ("/ui/queue/data", b"text/event-stream", b"end"),  # somebody waits for these results, and they come soon
        ("/ui/heartbeat/x", b"text/html", b"end"),
    ],
)
def test_ending_streams__ends_heartbeats_only(path: str, kind: bytes, last: bytes) -> None:
    async def stop_soon() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        told = Stopping(0.8)
        ending = EndingStreams(endless(kind), told)
        asyncio.get_running_loop().call_later(0.05, told.stop)
        await ending({"type": "http", "path": path}, receive, send)
        return sent

    sent = asyncio.run(stop_soon())
    assert sent[-1]["body"] == last
    assert sent[-1]["more_body"] is False
    assert (len(sent) < 40) == (last == b"")


def test_ending_streams__does_not_wait_long_for_results(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        monkeypatch.setattr(stopping, "LAST_WORDS_SECONDS", 0.05)
        told = Stopping(0.8)
        told.stop()
        ending = EndingStreams(endless(b"text/event-stream"), told)
        await ending({"type": "http", "path": "/ui/queue/data"}, receive, send)
        return sent

    assert asyncio.run(run())[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize(("cause", "ended"), [(HTTPException(404), True), (ValueError(), False)])
def test_ending_streams__an_unknown_session_is_not_a_failure(cause: Exception, ended: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        raise RuntimeError("response already started") from cause

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    with contextlib.nullcontext() if ended else pytest.raises(RuntimeError):
        asyncio.run(EndingStreams(app, Stopping(0.8))({"type": "http", "path": "/ui/queue/data"}, receive, send))
    assert (sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}) == ended
