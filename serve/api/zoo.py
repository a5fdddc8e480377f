"""/zoo: the models that this server hands out, for `leap-zoo pull --from http://this-server/zoo`.

Clients may request the files that a card lists, each checked against its digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request
from starlette.responses import FileResponse, MalformedRangeHeader, RangeNotSatisfiable, Response

from leap_zoo import store
from leap_zoo.card import Index, IndexEntry, ModelCard
from leap_zoo.store import BUNDLED, Zoo
from serve.problems import Refused
from serve.settings import ServeSettings

logger = logging.getLogger("leap_zoo.serve")

_KINDS = {"card.json": "application/json", "README.md": "text/markdown; charset=utf-8"}
_HEADERS = {"cache-control": "no-cache"}  # clients revalidate; the ETag saves transfers


_SAME: dict[int | str, dict[str, Any]] = {304: {"description": "The client already has this version"}}
_INDEX = _SAME | {200: {"description": "index.json, the default model first", "content": {"application/json": {}}}}
_CONTENT: dict[str, Any] = {"application/octet-stream": {}, "application/json": {}, "text/markdown": {}}
_FILE: dict[int | str, dict[str, Any]] = _SAME | {
    200: {"description": "The file; its ETag is its sha256", "content": _CONTENT},
    206: {"description": "The range that was asked for", "content": _CONTENT},
}

ModelId = Annotated[str, Path(description="The model's id", examples=["leap-tiny"])]
FileName = Annotated[str, Path(description="A file that the model's card lists", examples=["card.json"])]


class Shelf:
    """The models of several zoos as one zoo, read at creation; of two models with the same id, the first is used."""

    def __init__(self, zoos: Sequence[Zoo], first: str | None = None) -> None:
        """first: the model that the index lists first. Raises a LeapZooError if a zoo cannot be read."""
        first = first or store.default_model()
        entries: dict[str, IndexEntry] = {}
        self.cards: dict[str, ModelCard] = {}
        # README.md and model.sig have no published digest.
        self._listed: dict[tuple[str, str], tuple[FilePath, str | None]] = {}
        for zoo in zoos:
            for entry in zoo.index().models:
                if entry.sha256 != entries.setdefault(entry.id, entry).sha256:
                    continue
                card = self.cards.setdefault(entry.id, zoo.card(entry))
                digests = {file.file: file.sha256 for file in card.files} | {"card.json": entry.sha256}
                for name, path in zoo.paths(entry, card).items():
                    self._listed.setdefault((entry.id, name), (path, digests.get(name)))
        models = sorted(entries.values(), key=lambda entry: (entry.id != first, entry.id))
        self.index = msgspec.json.format(msgspec.json.encode(Index(models=models)))

    def offers(self, model: str, file: str, sha256: str) -> bool:
        """Whether this file of a model, with this digest, is listed. Does not read the file."""
        _, published = self._listed.get((model, file), (None, None))
        return published == sha256

    def find(self, model: str, file: str) -> tuple[FilePath, os.stat_result, str] | None:
        """A regular file of a model inside its zoo, its status and its digest. Reads the file the first time.

        None if no card lists it, or if its digest differs.
        """
        path, published = self._listed.get((model, file), (None, None))
        if path is None:
            return None
        try:
            status = path.stat()
            inside = path.resolve().is_relative_to(path.parent.parent.resolve())
            if not stat.S_ISREG(status.st_mode) or not inside:
                return None
            digest = _digest(path, status.st_mtime_ns, status.st_size, status.st_ino)
        except (OSError, RuntimeError):
            return None
        if published not in (None, digest):
            logger.error("%s of %s is corrupt and is not served: copy the model's folder again", file, model)
            return None
        return path, status, digest


def zoos_to_hand_on(settings: ServeSettings) -> list[Zoo]:
    """The zoos of LEAP_ZOO_SERVE_ZOO and the bundled one; if it is unset, the zoos that models are served from.

    Raises a LeapZooError when there is none.
    """
    if not settings.zoo:
        return store.zoos()
    named = [Zoo(folder) for folder in settings.zoo]
    return [*named, Zoo(BUNDLED)] if (BUNDLED / "index.json").is_file() else named


def router(shelf: Shelf) -> APIRouter:
    """The routes for the models on `shelf`."""
    routes = APIRouter(tags=["zoo"])
    index_etag = f'"{hashlib.sha256(shelf.index).hexdigest()}"'

    @routes.head("/zoo/index.json", include_in_schema=False)
    @routes.get("/zoo/index.json", response_class=Response, responses=_INDEX)
    async def zoo_index(request: Request) -> Response:
        """The models that can be pulled from here."""
        whole = Response(shelf.index, media_type="application/json", headers=_HEADERS | {"etag": index_etag})
        return _unless_known(request, whole)

    @routes.head("/zoo/{model}/{file}", include_in_schema=False)
    @routes.get("/zoo/{model}/{file}", response_class=Response, responses=_FILE)
    async def zoo_file(model: ModelId, file: FileName, request: Request) -> Response:
        """A file that a card lists, whole or as a single range (Range, If-Range, If-None-Match, HEAD)."""
        found = await asyncio.to_thread(shelf.find, model, file)
        if found is None:
            raise Refused("unknown_file", "No model here has this file. GET /zoo/index.json lists the models.")
        path, status, digest = found
        headers, kind = _HEADERS | {"etag": f'"{digest}"'}, _KINDS.get(file, "application/octet-stream")
        return _unless_known(
            request, ZooFile(path, headers=headers, media_type=kind, filename=file, stat_result=status)
        )

    return routes


class ZooFile(FileResponse):
    """A file, whole or as the one range that the client asked for. Other Range headers are ignored, as HTTP allows."""

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        try:
            ranges = super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []
        except RangeNotSatisfiable as error:
            detail = f"The file has {file_size} bytes: ask for a range that begins before its end."
            headers = {"content-range": f"bytes */{file_size}"}
            raise Refused("range_not_satisfiable", detail, headers) from error
        return ranges if len(ranges) == 1 else []


def _unless_known(request: Request, response: Response) -> Response:
    """304 if the client has this version already."""
    etag, offered = response.headers["etag"], request.headers.get("if-none-match", "")
    if offered.strip() == "*" or etag in [part.strip().removeprefix("W/") for part in offered.split(",")]:
        return Response(status_code=304, headers=_HEADERS | {"etag": etag})
    return response


@lru_cache(1024)
def _digest(path: FilePath, *version: int) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
