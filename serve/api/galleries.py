"""/v1/galleries: embeddings of photos that stay, by name, and the search among them. No photo is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from leap_zoo.gallery import Hit, Kind, Where
from serve.api import answers
from serve.api.answers import Answered, about, json_response
from serve.api.bodies import ITEM_PHOTOS
from serve.api.compared import Compared, CompareOptions, embed_for, of_kind
from serve.api.described import (
    CHANGE_PROBLEMS,
    MANY_PHOTOS,
    MANY_PROBLEMS,
    MODEL_PROBLEMS,
    READ_PROBLEMS,
    file_answer,
    problems,
)
from serve.api.names import GalleryName
from serve.engine import Engine, Space
from serve.exports import Export
from serve.photos import read_items, read_photos
from serve.problems import Refused
from serve.shelves import About
from serve.stores import Stores, Threads

MAX_K = 100  # with 16 KiB of metadata each, more would make answers that no client expects
MAX_PAGE = 1000
MAX_PAGE_BYTES = 2**20
MAX_DELETED = 100  # their ids must fit into the request's line

_Conditions = dict[str, str | int | bool]
_STORED = ("invalid_name", "gallery_damaged", "store_unavailable")
_READ = (*READ_PROBLEMS, *_STORED, "unknown_gallery")
_CHANGE = (*CHANGE_PROBLEMS, *_STORED, "unknown_gallery")
_ADD = (
    *_STORED,
    "other_embeddings",
    "too_many_galleries",
    "gallery_full",
    "store_full",
    "invalid_id",
    "invalid_metadata",
    "uneven_items",
)
_KIND: dict[str, Any] = {"model": "leap-tiny", "revision": "7bc54546bcc9", "space": "student", "dim": 192}
_GALLERY: dict[str, Any] = {"name": "holiday", **_KIND, "items": 2, "bytes": 1800}
_ITEM: dict[str, Any] = {"id": "beach", "metadata": {"label": "sea"}}
_TIMES: dict[str, Any] = {
    "precision": "int8",
    "milliseconds": 5.1,
    "decode_ms": 1.3,
    "inference_ms": 3.8,
    "queue_ms": 0.1,
}


class NewGallery(BaseModel):
    """The body of PUT /v1/galleries/{name}: whose embeddings it will hold."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, max_length=64, description="A model's id; default: the default model")
    space: Space = Field("student", description="The student's own space, or the teacher's")


class AddOptions(CompareOptions):
    """The query of POST /v1/galleries/{name}/items."""

    create: bool = Field(False, description="Make the gallery when it is not there")


class GalleryInfo(BaseModel):
    """A gallery, and whose embeddings it holds."""

    model_config = ConfigDict(json_schema_extra={"example": _GALLERY})
    name: str
    model: str
    revision: str
    space: Space
    dim: int = Field(description="Numbers in an embedding")
    items: int
    bytes: int | None = Field(description="On the disk; null where galleries lie on another server")


class GalleryList(BaseModel):
    """The answer of GET /v1/galleries, by name."""

    model_config = ConfigDict(json_schema_extra={"example": {"galleries": [_GALLERY]}})
    galleries: list[GalleryInfo]


class Added(Answered):
    """The answer to photos that were added; they are there for good."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"gallery": "holiday", "ids": ["beach"], "items": 2, **_KIND, **_TIMES}}
    )
    gallery: str
    ids: list[str] = Field(description="Of the photos, in their order; without repetitions")
    items: int = Field(description="In the gallery now")
    space: Space
    dim: int


class ItemInfo(BaseModel):
    """An item of a gallery."""

    model_config = ConfigDict(json_schema_extra={"example": _ITEM})
    id: str
    metadata: dict[str, str | int | float | bool | None]


class Page(BaseModel):
    """The answer of GET /v1/galleries/{name}/items."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [_ITEM], "offset": 0, "total": 2}})
    items: list[ItemInfo]
    offset: int = Field(description="As asked for")
    total: int = Field(description="In the gallery")


class Deleted(BaseModel):
    """How many of the items were there, and are gone."""

    model_config = ConfigDict(json_schema_extra={"example": {"deleted": 1}})
    deleted: int


class PageOptions(BaseModel):
    """The query of /v1/galleries/{name}/items."""

    model_config = ConfigDict(extra="forbid")
    offset: int = Field(0, ge=0, le=10**9, description="How many items to skip")
    limit: int = Field(100, ge=1, le=MAX_PAGE, description="How many to answer at most")


class DeleteOptions(BaseModel):
    """The query of DELETE /v1/galleries/{name}/items."""

    model_config = ConfigDict(extra="forbid")
    id: list[str] = Field(
        min_length=1, max_length=MAX_DELETED, description="Repeat it for several items", examples=[["beach"]]
    )


class SearchOptions(CompareOptions):
    """The query of a search."""

    k: int = Field(10, ge=1, le=MAX_K, description="How many items to answer for each photo, nearest first")
    where: str | None = Field(
        None,
        max_length=4096,
        description="JSON: only items whose metadata have these values (text, whole numbers, truth values)",
        examples=['{"label":"sea"}'],
    )


class SearchAnswer(Answered):
    """The answer of a search."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "hits": [[{"id": "beach", "score": 0.87, "metadata": {"label": "sea"}}]],
                "gallery": "holiday",
                "model": "leap-tiny",
                "revision": "7bc54546bcc9",
                "space": "student",
                "dim": 192,
                "precision": "int8",
                "milliseconds": 2.5,
                "decode_ms": 0.6,
                "inference_ms": 1.9,
                "queue_ms": 0.1,
            }
        }
    )
    hits: list[list[answers.Hit]] = Field(description="For each photo its items, nearest first")
    gallery: str
    space: Space
    dim: int


def router(engine: Engine, stores: Stores, max_photos: int) -> APIRouter:
    """The routes over the galleries of `stores`, whose photos `engine` embeds."""
    router = APIRouter(prefix="/v1/galleries", tags=["galleries"])
    galleries, threads = stores.galleries, stores.threads

    @router.get("", response_model=GalleryList, responses=problems(*READ_PROBLEMS, "store_unavailable"))
    async def list_galleries() -> Response:
        """Which galleries there are."""
        return json_response({"galleries": [_info(one) for one in await threads.run(galleries.list)]})

    @router.get("/{name}", response_model=GalleryInfo, responses=problems(*_READ))
    async def show_gallery(name: GalleryName) -> Response:
        """What a gallery is."""
        return json_response(_info(await threads.run(lambda: galleries.about(name))))

    @router.put(
        "/{name}",
        response_model=GalleryInfo,
        responses=problems(*_CHANGE, *MODEL_PROBLEMS, "broken_json", "other_embeddings", "too_many_galleries"),
    )
    async def make_gallery(name: GalleryName, wanted: NewGallery | None = None) -> Response:
        """Make a gallery, which is empty. One that is there stays as it is, when it is of the same model and space."""
        wanted = wanted or NewGallery()
        kind = Kind.of(engine.models.get(wanted.model).card, wanted.space)
        return json_response(_info(await threads.write(lambda: galleries.make(name, kind))))

    @router.post(
        "/{name}/items",
        response_model=Added,
        responses=problems(*MANY_PROBLEMS, *MODEL_PROBLEMS, *_ADD),
        openapi_extra=ITEM_PHOTOS,
    )
    async def add_to_gallery(request: Request, name: GalleryName, options: Annotated[AddOptions, Query()]) -> Response:
        """Add photos, or replace those of the same ids."""
        sent = await read_items(request, max_photos)
        await threads.run(lambda: galleries.checked(sent.ids, sent.metadata))
        there = await threads.run(lambda: galleries.find(name) if options.create else galleries.about(name))
        compared = await embed_for(engine, there, sent.photos, options)
        vectors = compared.answer.embeddings
        items = await threads.write(lambda: galleries.add(name, compared.kind, sent.ids, vectors, sent.metadata))
        added = {"gallery": name, "ids": sent.ids, "items": items}
        return json_response(added | of_kind(compared.kind) | about(compared.answer))

    @router.delete("/{name}", status_code=204, responses=problems(*_CHANGE))
    async def delete_gallery(name: GalleryName) -> Response:
        """Take a gallery away with all that is in it."""
        await threads.write(lambda: galleries.delete(name))
        return Response(status_code=204)

    @router.get("/{name}/items", response_model=Page, responses=problems(*_READ, "invalid_option"))
    async def list_gallery_items(name: GalleryName, options: Annotated[PageOptions, Query()]) -> Response:
        """A page of a gallery's items, in its own order. It ends earlier than `limit` where it would pass 1 MiB."""

        def page() -> tuple[int, bytes]:
            total = galleries.about(name).items
            items, size = [], 0
            for item in galleries.items(name, options.offset, options.limit):
                line = orjson.dumps({"id": item.id, "metadata": item.metadata})
                size += len(line)
                if items and size > MAX_PAGE_BYTES:
                    break
                items.append(line)
            return total, b"[" + b",".join(items) + b"]"

        total, items = await threads.run(page)
        return json_response({"items": orjson.Fragment(items), "offset": options.offset, "total": total})

    @router.delete(
        "/{name}/items", response_model=Deleted, responses=problems(*_CHANGE, "invalid_option", "invalid_id")
    )
    async def delete_gallery_items(name: GalleryName, options: Annotated[DeleteOptions, Query()]) -> Response:
        """Take items out. Ids that are not there are no error."""
        ids = list(dict.fromkeys(options.id))
        deleted = await threads.write(lambda: galleries.delete_items(name, ids))
        return json_response({"deleted": deleted})

    @router.post(
        "/{name}/search",
        response_model=SearchAnswer,
        responses=problems(*MANY_PROBLEMS, *MODEL_PROBLEMS, *_STORED, "unknown_gallery", "other_embeddings"),
        openapi_extra=MANY_PHOTOS,
    )
    async def search_gallery(
        request: Request, name: GalleryName, options: Annotated[SearchOptions, Query()]
    ) -> Response:
        """Find what is like one photo or several."""
        where = _conditions(options.where)
        photos = await read_photos(request, max_photos)
        compared, hits = await searched(engine, stores, name, photos, options, where)
        fields: dict[str, Any] = {"hits": hits, "gallery": name}
        return json_response(fields | of_kind(compared.kind) | about(compared.answer))

    npz = file_answer(
        "application/x-npz", "ids, embeddings, metadata (a line of JSON per item), model, revision, space"
    )

    @router.get("/{name}/export", response_class=StreamingResponse, responses=npz | problems(*_READ))
    async def export_gallery(name: GalleryName) -> Response:
        """All of a gallery as one file for numpy.load."""
        export = await threads.run(lambda: galleries.export(name), given_up=Export.close)
        return ExportAnswer(export, f"{name}.npz", threads)

    return router


async def searched(
    engine: Engine,
    stores: Stores,
    name: str,
    photos: Sequence[bytes],
    options: SearchOptions,
    where: Where | None,
) -> tuple[Compared, list[list[Hit]]]:
    """The photos' embeddings, and for each its nearest items in a gallery. Raises Refused, and as the engine does."""
    galleries, threads = stores.galleries, stores.threads
    found = await threads.run(lambda: galleries.about(name))
    compared = await embed_for(engine, found, photos, options)
    vectors = compared.answer.embeddings
    return compared, await threads.run(lambda: galleries.search(name, compared.kind, vectors, options.k, where))


class ExportAnswer(StreamingResponse):
    """An export, which is closed when its client has it, or has left."""

    def __init__(self, export: Export, filename: str, threads: Threads) -> None:
        async def blocks() -> AsyncIterator[bytes]:
            parts = iter(export)
            while (part := await threads.run(lambda: next(parts, None))) is not None:
                yield part

        self._export = export
        headers = {"content-disposition": f'attachment; filename="{filename}"'}
        super().__init__(blocks(), media_type="application/x-npz", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._export.close()


def _info(one: About) -> dict[str, Any]:
    return {"name": one.name, **of_kind(one.kind), "items": one.items, "bytes": one.bytes}


def _conditions(text: str | None) -> _Conditions | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=_Conditions)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        detail = 'where is a JSON object of texts, whole numbers and truth values, as {"label":"sea"}.'
        raise Refused(422, "invalid_option", detail) from error
