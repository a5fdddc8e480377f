"""POST /v1/galleries/{name}/vectors: embeddings that were computed elsewhere, such as an export's, in bulk."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import Annotated

import msgspec
import numpy as np
from fastapi import APIRouter, Request
from msgspec import Meta
from pydantic import BaseModel, Field

from leap_zoo.gallery import Kind, Vectors
from serve.api.galleries import GalleryName
from serve.api.schemas import body
from serve.engine import Space
from serve.galleries import require
from serve.photos import Fields, check_even, read_json
from serve.problems import Refused
from serve.stores import Stores

MAX_VECTORS = 10_000  # per request: the writer thread stores so many in well under a second

HOW = "JSON: the embeddings' model, revision and space, their ids and numbers, and optionally metadata, as in /export"


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


def router(stores: Stores) -> APIRouter:
    """The route for the galleries in `stores`."""
    router = APIRouter(prefix="/v1/galleries", tags=["galleries"])
    galleries = stores.galleries

    @router.post("/{name}/vectors", openapi_extra=body(HOW, VectorsBody, raw=False))
    async def add_vectors(request: Request, name: GalleryName) -> Imported:
        """Add embeddings that were computed elsewhere. They must be from the gallery's model, revision and space."""
        sent = await read_json(await request.body(), VectorsBody)
        held = await stores.readers.run(lambda: galleries.kind(name))
        kind = Kind(model=sent.model, revision=sent.revision, space=sent.space, dim=held.dim)
        require(held, kind)
        if not 1 <= len(sent.vectors) <= MAX_VECTORS:
            raise Refused("too_many_vectors", f"One request has 1 to {MAX_VECTORS} vectors. Send several requests.")
        check_even("vectors", sent.vectors, ids=sent.ids, metadata=sent.metadata)
        vectors = await asyncio.to_thread(_rows, sent.vectors, kind.dim)
        items = await stores.writer.run(lambda: galleries.add(name, kind, sent.ids, vectors, sent.metadata))
        return Imported(gallery=name, added=len(sent.ids), items=items)

    return router


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
