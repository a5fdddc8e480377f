"""How much of the disk visitors' photos may take together: they are kept for an hour or two, whoever sends them."""

from __future__ import annotations

import asyncio
import os

from gradio.utils import get_upload_folder
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.problems import Refused

MAX_STORED_BYTES = 1024**3
_UPLOAD = "/gradio_api/upload"


class UploadQuota:
    """Refuses uploads to the page `app` while more than `most` bytes of earlier ones lie on the disk."""

    def __init__(self, app: ASGIApp, most: int = MAX_STORED_BYTES) -> None:
        self.app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        is_upload = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith(_UPLOAD)
        if is_upload and await asyncio.to_thread(stored_bytes) >= self._most:
            detail = "This server keeps as many photos as it may. Older ones are deleted every hour: come back then."
            await Refused(503, "busy", detail, {"retry-after": "600"}).response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)


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
