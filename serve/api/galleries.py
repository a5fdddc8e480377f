"""/v1/galleries: named collections of photo embeddings, and search in them. The photos are not kept."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import IO, Annotated, Any

import msgspec
import numpy as np
import orjson
from fastapi import APIRouter, Depends, Path, Query, Request
from msgspec import Meta
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json
from starlette.responses import Response, StreamingResponse

from leap_zoo.gallery import Hit, Item, Kind, Vectors, checked_where
from serve.api.predict import ModelOptions
from serve.api.schemas import ITEMS_FORM, PHOTOS_FORM, Answered, about, body, json_response
from serve.engine import Embedded, Engine, Space
from serve.photos import (
    HOW_ITEMS,
    HOW_MANY,
    Fields,
    ImagesBody,
    ItemsBody,
    check_even,
    read_items,
    read_json,
    read_photos,
)
from serve.problems import Refused
from serve.stores import BLOCK, NAME, About, Stores, require

MAX_K = 100  # items may have 16 KiB of metadata each; more of them would make answers too large for most clients
MAX_PAGE = 1000
MAX_PAGE_BYTES = 2**20
MAX_DELETED = 100  # their ids must fit into the request line
MAX_VECTORS = 10_000  # per request: the writer thread stores so many in well under a second
HOW_VECTORS = (
    "JSON: the embeddings' model, revision and space, their ids and numbers, and optionally metadata, as in /export"
)


async def _temporary_file(request: Request) -> AsyncIterator[IO[bytes]]:
    with request.app.state.stores.galleries.temporary_file() as file:
        yield file  # closed when the answer is sent, or the client has left


TemporaryFile = Annotated[IO[bytes], Depends(_temporary_file)]


# The conditions of a search, each of which is compared with every item.
Conditions = Annotated[dict[str, Any], Field(max_length=8), AfterValidator(checked_where)]

GalleryName = Annotated[str, Path(json_schema_extra=NAME, examples=["holiday"], description="The gallery's name")]


class NewGallery(BaseModel):
    """The body of PUT /v1/galleries/{name}: the model and space of its embeddings."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, max_length=64, description="A model's id; default: the default model")
    space: Space = Field("student", description="The student's own space, or the teacher's")


class CompareOptions(ModelOptions):
    """The model that embeds photos for a gallery, and the space."""

    space: Space | None = Field(None, description="default: the gallery's, and student for a new one")


class AddOptions(CompareOptions):
    """The query of POST /v1/galleries/{name}/items."""

    create: bool = Field(False, description="Create the gallery if it does not exist")


class OfKind(BaseModel):
    """The model and space of a gallery's embeddings."""

    model: str = Field(examples=["leap-tiny"])
    revision: str = Field(examples=["7bc54546bcc9"])
    space: Space
    dim: int = Field(description="Numbers in an embedding")


class GalleryInfo(OfKind):
    """A gallery, and the model and space of its embeddings."""

    name: str = Field(examples=["holiday"])
    items: int
    bytes: int | None = Field(description="On disk; null if galleries are stored on another server")


class GalleryList(BaseModel):
    """The answer of GET /v1/galleries, sorted by name."""

    galleries: list[GalleryInfo]


class Added(OfKind, Answered):
    """The answer after photos were added; by then they are on disk."""

    gallery: str
    ids: list[str] = Field(description="Of the photos, in their order, without duplicates")
    items: int = Field(description="In the gallery now")


class Page(BaseModel):
    """The answer of GET /v1/galleries/{name}/items."""

    items: list[Item]
    offset: int = Field(description="The offset of the request")
    total: int = Field(description="In the gallery")
    next: str | None = Field(description="Pass this as `after` for the next page; null on the last page")


class Deleted(BaseModel):
    """How many items were deleted; ids that do not exist are not counted."""

    deleted: int


class PageOptions(BaseModel):
    """The query of /v1/galleries/{name}/items."""

    model_config = ConfigDict(extra="forbid")
    after: str | None = Field(None, max_length=256, description="The `next` of the previous page: start after it")
    offset: int = Field(0, ge=0, le=10**9, description="How many items to skip")
    limit: int = Field(100, ge=1, le=MAX_PAGE, description="The most items to return")


class DeleteOptions(BaseModel):
    """The query of DELETE /v1/galleries/{name}/items."""

    model_config = ConfigDict(extra="forbid")
    id: list[str] = Field(
        min_length=1, max_length=MAX_DELETED, description="Repeat it for several items", examples=[["beach"]]
    )


class SearchOptions(CompareOptions):
    """The query of a search."""

    k: int = Field(10, ge=1, le=MAX_K, description="How many items to return for each photo, nearest first")
    where: Json[Conditions] | None = Field(
        None,
        description="JSON: only items whose metadata has these values (strings, integers, booleans)",
        examples=['{"label":"sea"}'],
    )


class SearchAnswer(OfKind, Answered):
    """The answer of a search."""

    hits: list[list[Hit]] = Field(description="For each photo its items, nearest first")
    gallery: str


class VectorsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Embeddings, and the model that computed them."""

    model: str
    revision: str
    ids: list[str]
    vectors: Annotated[
        list[str | list[float]], Meta(description="For each id: base64 of little-endian float32, or numbers")
    ]
    space: Space = "student"
    metadata: list[Fields] | None = None


class Imported(BaseModel):
    """The answer after vectors were added or replaced those with the same ids; by then they are on disk."""

    gallery: str = Field(examples=["holiday"])
    added: int
    items: int = Field(description="In the gallery now")


def router(engine: Engine, stores: Stores, max_photos: int) -> APIRouter:
    """The routes for the galleries in `stores`; `engine` embeds their photos."""
    router = APIRouter(prefix="/v1/galleries", tags=["galleries"])
    galleries, readers, writer = stores.galleries, stores.readers, stores.writer

    @router.get("")
    async def list_galleries() -> GalleryList:
        """List the galleries."""
        return GalleryList(galleries=[_info(one) for one in await readers.run(galleries.list)])

    @router.get("/{name}")
    async def show_gallery(name: GalleryName) -> GalleryInfo:
        """Describe a gallery."""
        return _info(await readers.run(lambda: galleries.about(name)))

    @router.put("/{name}")
    async def make_gallery(name: GalleryName, wanted: NewGallery | None = None) -> GalleryInfo:
        """Create an empty gallery. An existing one of the same model and space stays as it is."""
        wanted = wanted or NewGallery()
        kind = Kind.of(engine.models.get(wanted.model).card, wanted.space)
        return _info(await writer.run(lambda: galleries.make(name, kind)))

    @router.post("/{name}/items", response_model=Added, openapi_extra=body(HOW_ITEMS, ItemsBody, ITEMS_FORM))
    async def add_to_gallery(request: Request, name: GalleryName, options: Annotated[AddOptions, Query()]) -> Response:
        """Add photos, or replace those with the same ids."""
        sent = await read_items(request, max_photos)
        await readers.run(lambda: galleries.checked(sent.ids, sent.metadata))
        there = await readers.run(lambda: galleries.find(name) if options.create else galleries.about(name))
        kind, answer = await embed_for(engine, there.kind if there else None, sent.photos, options)
        vectors = answer.embeddings
        items = await writer.run(lambda: galleries.add(name, kind, sent.ids, vectors, sent.metadata))
        return json_response({"gallery": name, "ids": sent.ids, "items": items} | _of(kind) | about(answer))

    @router.post("/{name}/vectors", openapi_extra=body(HOW_VECTORS, VectorsBody, raw=False))
    async def add_vectors(request: Request, name: GalleryName) -> Imported:
        """Add embeddings that were computed elsewhere. They must be from the gallery's model, revision and space."""
        sent = await read_json(await request.body(), VectorsBody)
        held = await readers.run(lambda: galleries.kind(name))
        kind = Kind(model=sent.model, revision=sent.revision, space=sent.space, dim=held.dim)
        require(held, kind)
        if not 1 <= len(sent.vectors) <= MAX_VECTORS:
            raise Refused("too_many_vectors", f"One request has 1 to {MAX_VECTORS} vectors. Send several requests.")
        check_even("vectors", sent.vectors, ids=sent.ids, metadata=sent.metadata)
        vectors = await asyncio.to_thread(_rows, sent.vectors, kind.dim)
        items = await writer.run(lambda: galleries.add(name, kind, sent.ids, vectors, sent.metadata))
        return Imported(gallery=name, added=len(sent.ids), items=items)

    @router.delete("/{name}", status_code=204)
    async def delete_gallery(name: GalleryName) -> None:
        """Delete a gallery and everything in it."""
        await writer.run(lambda: galleries.delete(name))

    @router.get("/{name}/items", response_model=Page)
    async def list_gallery_items(name: GalleryName, options: Annotated[PageOptions, Query()]) -> Response:
        """List a page of a gallery's items, in its own order. A page of 1 MiB ends before `limit`."""

        def page() -> dict[str, Any]:
            total = galleries.about(name).items
            found = galleries.items(name, options.offset, options.limit + 1, after=options.after)
            items: list[bytes] = []
            size = 0
            for item in found[: options.limit]:
                line = orjson.dumps({"id": item.id, "metadata": item.metadata})
                size += len(line)
                if items and size > MAX_PAGE_BYTES:
                    break
                items.append(line)
            following = found[len(items) - 1].id if len(items) < len(found) else None
            written = orjson.Fragment(b"[" + b",".join(items) + b"]")
            return {"items": written, "offset": options.offset, "total": total, "next": following}

        return json_response(await readers.run(page))

    @router.delete("/{name}/items")
    async def delete_gallery_items(name: GalleryName, options: Annotated[DeleteOptions, Query()]) -> Deleted:
        """Delete items. An id that does not exist is not an error."""
        ids = list(dict.fromkeys(options.id))
        return Deleted(deleted=await writer.run(lambda: galleries.delete_items(name, ids)))

    @router.post("/{name}/search", response_model=SearchAnswer, openapi_extra=body(HOW_MANY, ImagesBody, PHOTOS_FORM))
    async def search_gallery(
        request: Request, name: GalleryName, options: Annotated[SearchOptions, Query()]
    ) -> Response:
        """Find the photos most similar to one photo or several."""
        photos = await read_photos(request, max_photos)
        kind, answer, hits = await searched(engine, stores, name, photos, options)
        return json_response({"hits": hits, "gallery": name} | _of(kind) | about(answer))

    npz: dict[int | str, Any] = {200: {"description": "A file for numpy.load", "content": {"application/x-npz": {}}}}

    @router.get("/{name}/export", response_class=StreamingResponse, responses=npz)
    async def export_gallery(name: GalleryName, file: TemporaryFile) -> Response:
        """Download a whole gallery: ids, embeddings, metadata (a line of JSON per item), model, revision, space."""
        await readers.run(lambda: galleries.export(name, file))

        async def blocks() -> AsyncIterator[bytes]:
            while block := await readers.run(lambda: file.read(BLOCK)):
                yield block

        disposition = {"content-disposition": f'attachment; filename="{name}.npz"'}
        return StreamingResponse(blocks(), media_type="application/x-npz", headers=disposition)

    return router


async def searched(
    engine: Engine, stores: Stores, name: str, photos: Sequence[bytes], options: SearchOptions
) -> tuple[Kind, Embedded, Sequence[Sequence[Hit]]]:
    """The photos' embeddings, and the nearest items of a gallery to each. Raises Refused, and as the engine does."""
    galleries, readers = stores.galleries, stores.readers
    held = await readers.run(lambda: galleries.kind(name))
    kind, answer = await embed_for(engine, held, photos, options)
    hits = await readers.run(lambda: galleries.search(name, kind, answer.embeddings, options.k, options.where))
    return kind, answer, hits


async def embed_for(
    engine: Engine, held: Kind | None, photos: Sequence[bytes], options: CompareOptions
) -> tuple[Kind, Embedded]:
    """Embed with the model and in the space of a gallery; None: a new gallery. Photos of /v1/embed are first.

    Raises Refused (409) before any photo is read if the options name another model or space, or if the model has
    another revision by now; and what `Engine.embed` raises.
    """
    model, space = options.model, options.space
    if held is not None:
        if (model or held.model, space or held.space) != (held.model, held.space):
            detail = f"The gallery holds embeddings of {held}: leave out `model` and `space`, or use another gallery."
            raise Refused("other_embeddings", detail)
        model, space = held.model, held.space
    answer = await engine.embed(photos, model=model, space=space or "student", low_priority=True)
    kind = Kind(model=answer.model, revision=answer.revision, space=answer.space, dim=answer.embeddings.shape[1])
    if held is not None:
        require(held, kind)
    return kind, answer


def _rows(vectors: list[str | list[float]], dim: int) -> Vectors:
    """float32 (N, dim). Raises Refused (422) for the first invalid vector."""
    rows = np.zeros((len(vectors), dim), np.float32)
    for index, one in enumerate(vectors):
        with contextlib.suppress(ValueError), np.errstate(over="ignore"):  # an invalid one is found below
            row = np.frombuffer(base64.b64decode(one, validate=True), "<f4") if isinstance(one, str) else np.array(one)
            rows[index] = row.reshape(dim)
        if not 0 < float(np.square(rows[index], dtype=np.float64).sum()) < np.inf:
            detail = f"A vector must have {dim} finite numbers, not all of them 0. Send it as /export gives it."
            raise Refused("invalid_vector", detail, index=index)
    return rows


def _of(kind: Kind) -> dict[str, Any]:
    return {name: getattr(kind, name) for name in OfKind.model_fields}


def _info(one: About) -> GalleryInfo:
    return GalleryInfo(name=one.name, items=one.items, bytes=one.bytes, **_of(one.kind))
