"""The limits: how large a body may be, how many requests may be inside, how long one may take, streams that end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import limits, streams
from serve.limits import BodyLimit
from serve.streams import EndingStreams


def named(name: str) -> ASGIApp:
    """An application that answers with its name and the length of the body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{name} {len(body)}".encode()})

    return app


def request(app: ASGIApp, path: str = "/", chunks: Iterable[bytes] = (b"",), headers: Any = (), **more: Any) -> Any:
    """Send one request. Returns (status, headers, body, number of chunks that the application took)."""
    incoming = list(chunks)
    taken = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal taken
        taken += 1
        if taken > len(incoming):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": incoming[taken - 1], "more_body": taken < len(incoming)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), **more}
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return (sent[0]["status"], dict(sent[0]["headers"]), body, taken) if sent else (None, {}, b"", taken)


def test_body_limit__hands_on_a_body_of_the_limit() -> None:
    assert request(BodyLimit(named("app"), max_bytes=10), chunks=[b"12345", b"67890"])[2] == b"app 10"


def test_body_limit__counts_a_body_without_a_length() -> None:
    status, headers, body, taken = request(BodyLimit(named("app"), max_bytes=10), chunks=[b"123456"] * 4)
    assert status == 413
    assert headers[b"connection"] == b"close"
    assert json.loads(body)["code"] == "body_too_large"
    assert taken == 4  # what was still coming has been taken, so that the client could read the answer


def test_body_limit__believes_a_length_that_is_too_large() -> None:
    app = BodyLimit(named("app"), max_bytes=10)
    assert request(app, chunks=[b"1"], headers=[(b"content-length", b"11")])[0] == 413


def test_body_limit__does_not_believe_a_length_that_is_too_small() -> None:
    app = BodyLimit(named("app"), max_bytes=10)
    assert request(app, chunks=[b"123456", b"123456"], headers=[(b"content-length", b"2")])[0] == 413


def test_body_limit__bothers_nobody_when_the_client_left() -> None:
    status, _, _, taken = request(BodyLimit(named("app")), chunks=[])
    assert status is None
    assert taken == 1


def test_body_limit__ends_a_body_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.05)
    sent: list[Message] = []

    async def dripping() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b".", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    app = BodyLimit(named("app"), seconds=0.05)
    asyncio.run(asyncio.wait_for(app({"type": "http", "headers": []}, dripping, send), 5))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "body_too_slow"
    assert sent[-1]["more_body"] is False


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

        ending = EndingStreams(endless(kind))
        asyncio.get_running_loop().call_later(0.05, ending.stop)
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

        monkeypatch.setattr(streams, "LAST_WORDS_SECONDS", 0.05)
        ending = EndingStreams(endless(b"text/event-stream"))
        ending.stop()
        await ending({"type": "http", "path": "/ui/queue/data"}, receive, send)
        return sent

    assert asyncio.run(run())[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize(("cause", "ended"), [(HTTPException(404), True), (ValueError(), False)])
def test_ending_streams__an_unknown_session_is_no_failure(cause: Exception, ended: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        raise RuntimeError("response already started") from cause

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    with contextlib.nullcontext() if ended else pytest.raises(RuntimeError):
        asyncio.run(EndingStreams(app)({"type": "http", "path": "/ui/queue/data"}, receive, send))
    assert (sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}) == ended


def test_body_limit__bodies_of_all_requests_have_a_limit_together() -> None:
    async def run() -> list[int]:
        app = BodyLimit(named("app"), max_bytes=10, max_all=20)
        gate = asyncio.Event()
        statuses: list[int] = []

        async def one() -> None:
            chunks = [b"x" * 9, b"y"]

            async def receive() -> Message:
                if len(chunks) == 1:
                    await gate.wait()
                return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await app({"type": "http", "path": "/", "headers": []}, receive, send)

        tasks = [asyncio.create_task(one()) for _ in range(3)]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*tasks)
        await one()  # what was held is let go
        return statuses

    assert sorted(asyncio.run(run())) == [200, 200, 200, 503]
