"""/zoo: the models themselves, for `leap-zoo pull --from http://this-server/zoo`."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from serve.api.described import problems
from serve.problems import Refused
from serve.shelf import Found, Shelf

SEND_SECONDS = 30.0
"""How long a client may take over one chunk of 64 KiB before it is let go."""

_KINDS = {"card.json": "application/json", "README.md": "text/markdown; charset=utf-8"}
_RANGE = re.compile(r"\Abytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))\Z")
_HEADERS = {"cache-control": "no-cache", "accept-ranges": "bytes"}  # asked again each time; the ETag saves the bytes

_PROBLEMS = ("missing_key", "wrong_key", "internal_error", "busy")
_TEXT: dict[str, Any] = {"schema": {"type": "string"}}
_ETAG: dict[str, Any] = {"ETag": _TEXT | {"description": "The sha256 of the whole", "required": True}}
_RANGE_HEADERS: dict[str, Any] = _ETAG | {
    "Content-Range": _TEXT | {"description": "Which bytes of how many", "required": True}
}
_SAME: dict[str, Any] = {"description": "The client has this version", "headers": _ETAG}
_ASKED: list[dict[str, Any]] = [
    {"name": "If-None-Match", "in": "header", "description": "ETags that the client has"} | _TEXT
]
_ASKED_RANGE: list[dict[str, Any]] = [
    *_ASKED,
    {"name": "Range", "in": "header", "description": "`bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH`"} | _TEXT,
    {"name": "If-Range", "in": "header", "description": "The range is for this ETag only"} | _TEXT,
]
_FILE_CONTENT: dict[str, Any] = {"application/octet-stream": {}, "application/json": {}, "text/markdown": {}}


class ZooEntry(BaseModel):
    """A model; `sha256` and `bytes` are those of its card.json."""

    id: str
    revision: str
    sha256: str
    bytes: int
    description: str


class ZooIndex(BaseModel):
    """The answer of GET /zoo/index.json, the default model first."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "models": [
                    {
                        "id": "leap-tiny",
                        "revision": "7bc54546bcc9",
                        "sha256": "0" * 64,
                        "bytes": 51_000,
                        "description": "A small vision transformer",
                    }
                ],
                "schema": 1,
            }
        }
    )
    models: list[ZooEntry]
    version: Literal[1] = Field(alias="schema", description="Of this shape")


_INDEX: dict[int | str, dict[str, Any]] = {200: {"model": ZooIndex, "headers": _ETAG}, 304: _SAME}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file; its ETag is its sha256", "content": _FILE_CONTENT, "headers": _ETAG},
    206: {"description": "The range that was asked for", "content": _FILE_CONTENT, "headers": _RANGE_HEADERS},
    304: _SAME,
}


ModelId = Annotated[str, Path(description="The model's id", examples=["leap-tiny"])]
FileName = Annotated[str, Path(description="A file that the model's card lists", examples=["card.json"])]


def router(shelf: Shelf) -> APIRouter:
    """The routes over what is on `shelf`."""
    routes = APIRouter(tags=["zoo"])

    @routes.head("/zoo/index.json", include_in_schema=False)
    @routes.get(
        "/zoo/index.json",
        response_class=JSONResponse,
        responses=_INDEX | problems(*_PROBLEMS),
        openapi_extra={"parameters": _ASKED},
    )
    async def zoo_index(request: Request) -> Response:
        """The models that can be pulled from here."""
        data = await asyncio.to_thread(shelf.index)
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = _HEADERS | {"etag": etag}
        if _has(request, etag):
            return Response(status_code=304, headers=headers)
        body = b"" if request.method == "HEAD" else data
        return Response(body, media_type="application/json", headers=headers | {"content-length": str(len(data))})

    @routes.head("/zoo/{model}/{file}", include_in_schema=False)
    @routes.get(
        "/zoo/{model}/{file}",
        response_class=Response,
        responses=_FILE | problems(*_PROBLEMS, "unknown_file", "range_not_satisfiable"),
        openapi_extra={"parameters": _ASKED_RANGE},
    )
    async def zoo_file(model: ModelId, file: FileName, request: Request) -> Response:
        """A file that a card lists, whole or a single range of it (Range, If-Range, If-None-Match, HEAD)."""
        found = await asyncio.to_thread(shelf.find, model, file)
        if found is None:
            raise Refused(404, "unknown_file", "No model here has this file. GET /zoo/index.json lists the models.")
        etag = f'"{found.sha256}"'
        headers = _HEADERS | {"etag": etag}
        if _has(request, etag):
            return Response(status_code=304, headers=headers)
        _settle_range(request, found, etag)
        kind = _KINDS.get(file, "application/octet-stream")
        return PacedFile(found.path, headers=headers, media_type=kind, filename=file, stat_result=found.status)

    return routes


class PacedFile(FileResponse):
    """A file, read and sent in small pieces. A client that takes too long over one is let go."""

    max_ranges = 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""

        async def paced_send(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        await super().__call__(scope, receive, paced_send)


def _has(request: Request, etag: str) -> bool:
    offered = request.headers.get("if-none-match", "")
    return offered.strip() == "*" or etag in [part.strip().removeprefix("W/") for part in offered.split(",")]


def _settle_range(request: Request, found: Found, etag: str) -> None:
    """Leave a Range header that can be answered; drop one that is to be ignored. Raises Refused (416)."""
    wanted = request.headers.get("range")
    if wanted is None:
        return
    same = request.headers.get("if-range", etag).strip() == etag
    parsed = _RANGE.match(wanted.strip())
    size = found.status.st_size
    if parsed and same and request.method == "GET":
        first, last, suffix = parsed.groups()
        if (int(suffix) if suffix else size - int(first)) <= 0:
            detail = f"The file has {size} bytes: ask for a range that begins before its end."
            raise Refused(416, "range_not_satisfiable", detail, {"content-range": f"bytes */{size}", "etag": etag})
        if not last or int(last) >= int(first):
            return
    kept = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    request.scope["headers"] = kept
