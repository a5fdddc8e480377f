"""Clients who do not read fill the budget of bytes: whoever finds no room is refused, and nothing fails."""

from __future__ import annotations

import asyncio
import json

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve.middleware import Gate
from serve.observe import Metrics
from serve.settings import ServeSettings

LARGE = 7 * 2**20


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """An application with a large answer."""
    await Response(bytes(LARGE))(scope, receive, send)


def test_answers__that_find_no_room_are_refused() -> None:
    async def run() -> list[Message]:
        gate = Gate(large, large, ServeSettings(max_body_mb=1, memory_mb=16), Metrics())
        scope = {"type": "http", "method": "GET", "path": "/v1/x", "headers": [(b"host", b"localhost")]}
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def stuck(message: Message) -> None:
            await asyncio.Event().wait()

        async def kept(message: Message) -> None:
            sent.append(message)

        readers = [asyncio.create_task(gate(dict(scope), receive, stuck)) for _ in range(2)]
        while gate.budget.held < 2 * LARGE:
            await asyncio.sleep(0)
        await gate(dict(scope), receive, kept)
        assert gate.budget.held == 2 * LARGE
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        assert gate.budget.held == 0
        return sent

    start, body = asyncio.run(asyncio.wait_for(run(), 120))
    assert (start["status"], json.loads(body["body"])["code"]) == (503, "busy")
