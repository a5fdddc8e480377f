"""How a worker stops: it reports that it is not ready, finishes its requests, and ends the event streams of pages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import threading
from types import FrameType
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

READ_SHARE = 0.4
"""How long uvicorn still reads requests after it accepted the last connection, as a fraction of the drain time."""

LAST_WORDS_SECONDS = 3.0
"""How long a stream of results may still run, because a client waits for it. A heartbeat ends at once."""

FOLLOW_SECONDS = 0.5
"""How often a worker checks that its supervisor is alive."""

_log = logging.getLogger("leap_zoo.serve")


class Stopping:
    """Whether this process was told to stop. It still accepts requests for `drain` seconds afterward.

    During that time, /readyz answers 503, and every answer asks to close its connection.
    """

    def __init__(self, drain: float) -> None:
        self._drain = drain
        self._event = asyncio.Event()
        self._told = False

    @property
    def now(self) -> bool:
        """Whether the process was told to stop."""
        return self._event.is_set()

    def stop(self) -> None:
        """Begin to stop."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until the process is told to stop."""
        await self._event.wait()

    def listen(self) -> None:
        """Handle SIGTERM, SIGINT and SIGHUP before uvicorn, whose handlers are installed when the lifespan starts.

        uvicorn receives the first signal after the drain, and a second one, which means hurry, at once.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # signals belong to the main thread; a server embedded elsewhere stops by other means
        loop, uvicorns = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def heard(number: int, frame: FrameType | None) -> None:
            if not callable(uvicorns):
                loop.call_soon_threadsafe(self.stop)
            elif self._told:
                uvicorns(number, frame)
            else:
                self._told = True
                loop.call_soon_threadsafe(self.stop)
                loop.call_soon_threadsafe(loop.call_later, self._drain, drained)

        def drained() -> None:
            for one in _sockets(getattr(uvicorns, "__self__", None)):
                with contextlib.suppress(OSError), one:
                    one.listen(0)  # new clients retry after a second and are then refused
            leave(loop.time() + self._drain)

        def leave(until: float) -> None:
            server = getattr(uvicorns, "__self__", None)
            waiting = [_waiting(one) for one in _sockets(server)]  # a list, not a generator: every copy must be closed
            if any(waiting) and loop.time() < until:
                loop.call_soon(leave, until)  # the loop accepts them first
                return
            _stop_listening(server)
            if callable(uvicorns):
                loop.call_later(READ_SHARE * self._drain, uvicorns, signal.SIGTERM, None)

        numbers = [signal.SIGTERM, signal.SIGINT]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, heard)


def follow_supervisor(parent: int | None = None) -> None:
    """Stop when the parent process is gone: a worker that outlived it would keep the port."""
    parent = parent or os.getppid()
    if os.getppid() != parent:
        _log.warning("The supervisor is gone: this worker stops.")
        signal.raise_signal(signal.SIGTERM)
    else:
        asyncio.get_running_loop().call_later(FOLLOW_SECONDS, follow_supervisor, parent)


def _stop_listening(server: Any) -> None:
    """Refuse new connections, also in the supervisor, which shares the socket and would keep them until it ends.

    The next worker listens again on the same socket.
    """
    for shared in _sockets(server):
        with contextlib.suppress(OSError), shared:
            shared.shutdown(socket.SHUT_RD)


def _sockets(server: Any) -> list[socket.socket]:
    """Copies of the sockets that uvicorn's server listens on."""
    found = (one for server in getattr(server, "servers", ()) for one in server.sockets)
    return [socket.socket(fileno=os.dup(one.fileno())) for one in found]


def _waiting(shared: socket.socket) -> bool:
    """Whether connections wait to be accepted: closing the socket would reset them. Works on Linux only."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    with contextlib.suppress(OSError), shared:
        info = shared.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
        return bool(struct.unpack_from("I", info, 24)[0])  # tcpi_unacked: a listener's accept queue
    return False


class EndingStreams:
    """Ends the `text/event-stream` answers of `app` once the process is stopping.

    uvicorn waits for every answer to end before it stops, and a browser tab keeps one open as long as it exists.
    """

    def __init__(self, app: ASGIApp, stopping: Stopping) -> None:
        self.app = app
        self._stopping = stopping

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
                if streaming:  # unless the application ended the stream when it was canceled
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await answer
        except RuntimeError as error:
            # Gradio reports an unknown session within the stream and then raises: without this, any client could fill
            # the log with tracebacks.
            if not (streaming and isinstance(error.__cause__, HTTPException)):
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            stop.cancel()
            answer.cancel()
