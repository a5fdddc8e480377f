"""How a server stops: it says so first, then ends the event streams, and then lets uvicorn stop.

An open Gradio tab would otherwise hold it up for ever, and a client would use a kept connection that just closes.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.idle import close_idle
from serve.listening import listen_again, stop_listening, take_no_more

DRAIN_SECONDS = 0.5
"""How long connections are asked to close, and /readyz says no, before nobody new is let in."""

LAST_ARRIVALS_SECONDS = 0.3
"""How long after that those who had just connected may send their request: uvicorn closes the others."""

LAST_WORDS_SECONDS = 3.0
"""How long a stream of results may still run: an answer that somebody waits for. A heartbeat ends at once."""


class EndingStreams:
    """Ends the `text/event-stream` answers of `app` once SIGTERM or SIGINT has arrived.

    uvicorn waits for every answer to end before it stops, and a browser tab keeps one open for as long as it lives.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._stopping = asyncio.Event()
        self._told = False

    @property
    def stopping(self) -> bool:
        """Whether the server has been told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End the open event streams, and those that are asked for later."""
        self._stopping.set()

    def listen_for_stop(self) -> None:
        """Hear the stop signals before uvicorn, whose handlers are already in place when the lifespan starts.

        uvicorn hears of the first one when nobody new is let in any more, of the next ones, which mean hurry, at once.
        """
        listen_again()
        if threading.current_thread() is not threading.main_thread():
            return  # signals belong to the main thread; a server embedded elsewhere stops by other means
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)

            def heard(received: int, frame: FrameType | None, previous: object = previous) -> None:
                if not callable(previous):
                    loop.call_soon_threadsafe(self.stop)
                elif self._told:
                    previous(received, frame)
                else:
                    self._told = True
                    loop.call_soon_threadsafe(self._stop_soon, previous, received)

            signal.signal(number, heard)

    def _stop_soon(self, previous: Callable[[int, FrameType | None], object], number: int) -> None:
        self.stop()
        loop = asyncio.get_running_loop()

        def leave() -> None:
            stop_listening()
            close_idle(getattr(previous, "__self__", None))  # the handler is a method of uvicorn's server
            previous(number, None)

        loop.call_later(DRAIN_SECONDS, take_no_more)
        loop.call_later(DRAIN_SECONDS + LAST_ARRIVALS_SECONDS, leave)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        streaming = False  # an event stream has begun, and has not ended

        async def watched_send(message: Message) -> None:
            nonlocal streaming
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"")
                streaming = kind.startswith(b"text/event-stream")
            elif not message.get("more_body", False):
                streaming = False
            await send(message)

        answer = asyncio.ensure_future(self.app(scope, receive, watched_send))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({answer, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and streaming and "/heartbeat/" not in scope["path"]:
                await asyncio.wait({answer}, timeout=LAST_WORDS_SECONDS)
            if not answer.done() and streaming:
                answer.cancel()
                await asyncio.wait({answer})
                if streaming:  # not where the application has ended it when it was cancelled
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await answer
        except RuntimeError as error:
            # Gradio tells a page whose session it does not know so, within the stream, and then raises: any stranger
            # could fill the log with tracebacks.
            if not (streaming and isinstance(error.__cause__, HTTPException)):
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            stop.cancel()
            answer.cancel()
