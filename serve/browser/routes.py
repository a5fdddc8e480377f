"""/browser: the page, its sample photos, and onnxruntime-web. A fixed list of files; nothing else is looked up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, RedirectResponse, Response

from serve.browser import runtime
from serve.problems import Refused

PAGE = Path(__file__).with_name("page")
SAMPLES = Path(__file__).parents[1] / "demo" / "samples"
SHOWN = ("taxi-1.jpg", "balloon-1.jpg", "turtle-1.jpg")

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".jpg": "image/jpeg",
    ".gz": "application/octet-stream",  # unpacked by the page; no encoding of the transfer
}
_HEADERS = {"cache-control": "no-cache"}  # asked again each time; the ETag saves the bytes


@dataclass(frozen=True)
class _Held:
    data: bytes
    etag: str


def router(runtime_folder: Path) -> APIRouter:
    """The routes; onnxruntime-web is looked for in `runtime_folder` at each request."""
    routes = APIRouter(include_in_schema=False)
    held = {path.name: _hold(path) for path in PAGE.iterdir() if path.suffix in _KINDS}
    held |= {name: _hold(SAMPLES / name) for name in SHOWN}

    @routes.get("/browser")
    async def with_slash(request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"browser/{query}")

    @routes.get("/browser/runtime/{name}")
    async def runtime_file(name: str) -> Response:
        path = runtime_folder / name
        if name not in runtime.FILES or not path.is_file():
            raise Refused(404, "unknown_file", "onnxruntime-web is not on this server: `make browser` fetches it.")
        return FileResponse(path, headers=_HEADERS, media_type=_KINDS[path.suffix])

    @routes.get("/browser/{name:path}")
    async def page_file(name: str, request: Request) -> Response:
        name = name or "index.html"
        found = held.get(name)
        if found is None:
            raise Refused(404, "unknown_path", "Nothing is served at this path. GET / lists what is.")
        headers = _HEADERS | {"etag": found.etag}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=headers)
        return Response(found.data, media_type=_KINDS[Path(name).suffix], headers=headers)

    return routes


def _hold(path: Path) -> _Held:
    data = path.read_bytes()
    return _Held(data, f'"{hashlib.sha256(data).hexdigest()}"')
