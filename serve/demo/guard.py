"""A layer around Gradio: a limit on stored uploads, and clear answers if something fails."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gradio.exceptions import Error as GradioError
from gradio.route_utils import FnIndexInferError
from gradio.utils import get_upload_folder
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leap_zoo import LeapZooError
from serve.kept import bytes_below
from serve.problems import Refused, refusal_of

logger = logging.getLogger("leap_zoo.serve")

UserError = (LeapZooError, Refused)
"""Errors that a visitor can cause and fix; the message says how."""

INTERNAL_ERROR = "Internal error: see the log of the server."

MAX_STORED_BYTES = 1024**3
FULL = "The server's space for uploads is full. Photos are deleted after an hour or two: try again later."
LAST_WORDS_SECONDS = 3.0
"""How long an event stream may still run when the process stops: somebody may wait for its results."""

UNKNOWN = "The page has no such function. It is for browsers; programs use the API at /v1, see /docs."

_UPLOAD = "/gradio_api/upload"
_NAMED = ("/gradio_api/queue/join", "/gradio_api/call", "/gradio_api/run", "/gradio_api/component_server")
"""Routes whose request names a function or a component of the page."""


class Guard:
    """Limits uploads to the page `app`, and answers if it raises."""

    def __init__(self, app: ASGIApp, stop_event: asyncio.Event) -> None:
        """stop_event: Gradio's, which ends its heartbeats."""
        self.app = app
        self._stop_event = stop_event
        self._streams: set[asyncio.Timeout] = set()

    def end_streams(self) -> None:
        """End the event streams of open pages, which last as long as a browser tab: heartbeats at once, results soon.

        Gradio does not end a stream of results whose session has nothing to do.
        """
        self._stop_event.set()
        for stream in self._streams:
            _end_soon(stream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        path, uploads = scope["path"], Path(get_upload_folder())
        if path.endswith(_UPLOAD) and await asyncio.to_thread(bytes_below, uploads) >= MAX_STORED_BYTES:
            await Refused("busy", FULL, {"retry-after": "600"}).response()(scope, receive, send)
            return
        begun = False
        error: Exception | None = None
        clock = asyncio.timeout(None)

        async def without_failures(message: Message) -> None:
            nonlocal begun, error
            if message["type"] == "http.response.start" and message["status"] == 500:
                error = RuntimeError(f"Gradio answered {path} with 500")
            if message["type"] == "http.response.start" and _is_stream(message):
                self._streams.add(clock)
                if self._stop_event.is_set():
                    _end_soon(clock)
            if error is None:
                begun = True
                await send(message)

        try:
            async with clock:
                await self.app(scope, receive, without_failures)
        except Exception as raised:
            if begun and not (clock.expired() or isinstance(raised.__cause__, HTTPException)):
                raise
            error = raised
        finally:
            self._streams.discard(clock)
        if begun and error is not None:  # the process stops, or Gradio has named an unknown session in its stream
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        if begun or error is None:
            return
        # Gradio looks the named function up without checking the name.
        if isinstance(error, LookupError | GradioError | FnIndexInferError) and any(route in path for route in _NAMED):
            refused = Refused("invalid_body", UNKNOWN)
        else:
            refused = Refused("internal_error", explain(error))
        await refused.response()(scope, receive, send)


def _is_stream(start: Message) -> bool:
    return any(name == b"content-type" and kind.startswith(b"text/event-stream") for name, kind in start["headers"])


def _end_soon(stream: asyncio.Timeout) -> None:
    stream.reschedule(asyncio.get_running_loop().time() + LAST_WORDS_SECONDS)


def explain(error: Exception) -> str:
    """The message for the visitor, without local paths; an unexpected error is logged."""
    if isinstance(error, UserError):
        return refusal_of(error).detail
    logger.error("internal error in the page", exc_info=error)
    return INTERNAL_ERROR
