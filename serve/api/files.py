"""/zoo: the model files, for `leap-zoo pull --from http://this-server/zoo`."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, Response

from serve.problems import Refused
from serve.shelf import Found, Shelf

_KINDS = {"card.json": "application/json", "README.md": "text/markdown; charset=utf-8"}
_RANGE = re.compile(r"\Abytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))\Z")
_HEADERS = {"cache-control": "no-cache", "accept-ranges": "bytes"}  # clients revalidate; the ETag saves transfers


class ZooEntry(BaseModel):
    """A model; `sha256` and `bytes` are those of its card.json."""

    id: str
    revision: str
    sha256: str
    bytes: int
    description: str


class ZooIndex(BaseModel):
    """The answer of GET /zoo/index.json, the default model first."""

    models: list[ZooEntry]
    version: Literal[1] = Field(alias="schema", description="Version of this format")


_SAME: dict[int | str, dict[str, Any]] = {304: {"description": "The client already has this version"}}
_CONTENT: dict[str, Any] = {"application/octet-stream": {}, "application/json": {}, "text/markdown": {}}
_FILE: dict[int | str, dict[str, Any]] = _SAME | {
    200: {"description": "The file; its ETag is its sha256", "content": _CONTENT},
    206: {"description": "The range that was asked for", "content": _CONTENT},
}

ModelId = Annotated[str, Path(description="The model's id", examples=["leap-tiny"])]
FileName = Annotated[str, Path(description="A file that the model's card lists", examples=["card.json"])]


def router(shelf: Shelf) -> APIRouter:
    """The routes for the models on `shelf`."""
    routes = APIRouter(tags=["zoo"])

    index_headers = _HEADERS | {"etag": f'"{hashlib.sha256(shelf.index).hexdigest()}"'}

    @routes.head("/zoo/index.json", include_in_schema=False)
    @routes.get("/zoo/index.json", response_model=ZooIndex, responses=_SAME)
    async def zoo_index(request: Request) -> Response:
        """The models that can be pulled from here."""
        if _has(request, index_headers["etag"]):
            return Response(status_code=304, headers=index_headers)
        return Response(shelf.index, media_type="application/json", headers=index_headers)

    @routes.head("/zoo/{model}/{file}", include_in_schema=False)
    @routes.get("/zoo/{model}/{file}", response_class=Response, responses=_FILE)
    async def zoo_file(model: ModelId, file: FileName, request: Request) -> Response:
        """A file that a card lists, whole or as a single range (Range, If-Range, If-None-Match, HEAD)."""
        found = await asyncio.to_thread(shelf.find, model, file)
        if found is None:
            raise Refused(404, "unknown_file", "No model here has this file. GET /zoo/index.json lists the models.")
        etag = f'"{found.sha256}"'
        headers = _HEADERS | {"etag": etag}
        if _has(request, etag):
            return Response(status_code=304, headers=headers)
        _settle_range(request, found, etag)
        kind = _KINDS.get(file, "application/octet-stream")
        return FileResponse(found.path, headers=headers, media_type=kind, filename=file, stat_result=found.status)

    return routes


def _has(request: Request, etag: str) -> bool:
    offered = request.headers.get("if-none-match", "")
    return offered.strip() == "*" or etag in [part.strip().removeprefix("W/") for part in offered.split(",")]


def _settle_range(request: Request, found: Found, etag: str) -> None:
    """Keep a Range header that can be answered; drop one that must be ignored. Raises Refused (416)."""
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
