"""Event streams that end when the server is told to stop: an open Gradio tab would otherwise hold it up for ever."""

from __future__ import annotations

import asyncio
import signal
import threading
from types import FrameType

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class EndingStreams:
    """Ends the `text/event-stream` answers of `app` once SIGTERM or SIGINT has arrived.

    uvicorn waits for every answer to end before it stops, and a browser tab keeps one open for as long as it lives.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the open event streams, and those that are asked for later."""
        self._stopping.set()

    def listen_for_stop(self) -> None:
        """Hear the stop signals besides uvicorn, whose handlers are already in place when the lifespan starts."""
        if threading.current_thread() is not threading.main_thread():
            return  # signals belong to the main thread; a server embedded elsewhere stops by other means
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)

            def heard(received: int, frame: FrameType | None, previous: object = previous) -> None:
                loop.call_soon_threadsafe(self.stop)
                if callable(previous):
                    previous(received, frame)

            signal.signal(number, heard)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        streaming = False

        async def watched_send(message: Message) -> None:
            nonlocal streaming
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                streaming = kind.startswith(b"text/event-stream")
            await send(message)

        answer = asyncio.ensure_future(self.app(scope, receive, watched_send))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({answer, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and streaming:
                answer.cancel()
                await asyncio.wait({answer})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await answer
        finally:
            stop.cancel()
            answer.cancel()
