"""A layer around Gradio: a limit on stored uploads, and a clear answer if Gradio itself fails."""

from __future__ import annotations

import asyncio
import os

from gradio.exceptions import Error as GradioError
from gradio.route_utils import FnIndexInferError
from gradio.utils import get_upload_folder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.demo.backend import explain
from serve.problems import Refused

MAX_STORED_BYTES = 1024**3
FULL = "The server's space for uploads is full. Photos are deleted after an hour or two: try again later."
UNKNOWN = "The page has no such function. It is for browsers; programs use the API at /v1, see /docs."

_UPLOAD = "/gradio_api/upload"
_NAMED = ("/gradio_api/queue/join", "/gradio_api/call", "/gradio_api/run", "/gradio_api/component_server")
"""Routes whose request names a function or a component of the page."""


class Guard:
    """Limits uploads to the page `app`, and answers if it raises."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path.endswith(_UPLOAD) and await asyncio.to_thread(stored_bytes) >= MAX_STORED_BYTES:
            await Refused(503, "busy", FULL, {"retry-after": "600"}).response()(scope, receive, send)
            return
        begun = failed = False

        async def without_failures(message: Message) -> None:
            nonlocal begun, failed
            failed = failed or (message["type"] == "http.response.start" and message["status"] == 500)
            if not failed:
                begun = True
                await send(message)

        error: Exception = RuntimeError(f"Gradio answered {path} with 500")
        try:
            await self.app(scope, receive, without_failures)
        except Exception as raised:
            if begun:
                raise
            failed, error = True, raised
        if not failed:
            return
        # Gradio looks the named function up without checking the name.
        if isinstance(error, LookupError | GradioError | FnIndexInferError) and any(route in path for route in _NAMED):
            refused = Refused(422, "invalid_body", UNKNOWN)
        else:
            refused = Refused(500, "internal_error", explain(error))
        await refused.response()(scope, receive, send)


def stored_bytes() -> int:
    """The bytes of all files below Gradio's upload folder."""
    total = 0
    for folder, _, names in os.walk(get_upload_folder()):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(folder, name))
            except OSError:  # deleted meanwhile
                continue
    return total
