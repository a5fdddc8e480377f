"""How a worker stops: it reports that it is not ready, finishes its requests, and then ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# How long uvicorn still reads requests after it accepted the last connection, as a fraction of the drain time.
READ_SHARE = 0.4
FOLLOW_SECONDS = 0.5  # how often a worker checks that its supervisor is alive
_log = logging.getLogger("leap_zoo.serve")


class Stopping:
    """Whether this process was told to stop. It still accepts requests for `drain` seconds afterward.

    During that time, /readyz answers 503, and every answer asks to close its connection.
    """

    def __init__(self, drain: float, begin: Callable[[], object]) -> None:
        """begin: called when the process is told to stop."""
        self._drain, self._begin = drain, begin
        self.now = False

    def listen(self) -> None:
        """Handle SIGTERM, SIGINT and SIGHUP before uvicorn, whose handlers are installed when the lifespan starts.

        uvicorn receives the first signal after the drain, and a second one, which means hurry, at once.
        """
        if threading.current_thread() is not threading.main_thread():
            return  # signals belong to the main thread; a server embedded elsewhere stops by other means
        loop, uvicorns = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def heard(number: int, frame: FrameType | None) -> None:
            if self.now and callable(uvicorns):
                uvicorns(number, frame)
            elif not self.now:
                self.now = True
                loop.call_soon_threadsafe(self._begin)
                loop.call_soon_threadsafe(lambda: loop.call_later(self._drain, self._leave, uvicorns))

        numbers = [signal.SIGTERM, signal.SIGINT]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, heard)

    def _leave(self, uvicorns: Any, until: float | None = None) -> None:
        """Refuse new connections, also in the supervisor, which shares the socket and would keep them until it ends;
        then tell uvicorn to stop. The next worker listens again on the same socket.

        until: when to stop waiting for a moment without connections to accept, which would be reset.
        """
        loop = asyncio.get_running_loop()
        until = until or loop.time() + self._drain
        with contextlib.ExitStack() as stack:
            # Copies: uvloop's own sockets cannot do this.
            server = getattr(uvicorns, "__self__", None)
            numbers = [one.fileno() for each in getattr(server, "servers", ()) for one in each.sockets]
            sockets = [stack.enter_context(socket.socket(fileno=os.dup(number))) for number in numbers]
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.listen(0)  # new clients retry after a second and are then refused
            if any(map(_waiting, sockets)) and loop.time() < until:
                loop.call_soon(self._leave, uvicorns, until)  # they are accepted first
                return
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RD)
        if callable(uvicorns):
            loop.call_later(READ_SHARE * self._drain, uvicorns, signal.SIGTERM, None)


def follow_supervisor(parent: int | None = None) -> None:
    """Stop when the parent process is gone: a worker that outlived it would keep the port."""
    parent = parent or os.getppid()
    if os.getppid() != parent:
        _log.warning("The supervisor is gone: this worker stops.")
        signal.raise_signal(signal.SIGTERM)
    else:
        asyncio.get_running_loop().call_later(FOLLOW_SECONDS, follow_supervisor, parent)


def _waiting(shared: socket.socket) -> bool:
    """Whether connections wait to be accepted. Works on Linux only."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    with contextlib.suppress(OSError):
        info = shared.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
        return bool(struct.unpack_from("I", info, 24)[0])  # tcpi_unacked: a listener's accept queue
    return False
