"""/v1/search: the items of a gallery that are nearest to photos."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serve.engine import Engine, Space
from serve.photos import read_photos
from serve.problems import Refused
from serve.routes.answers import Answered, about, json_response
from serve.routes.compared import CompareOptions, embed_for, of_kind
from serve.routes.described import MANY_PHOTOS, MANY_PROBLEMS, MODEL_PROBLEMS, problems
from serve.stores import Stores

MAX_K = 100  # with 16 KiB of metadata each, more would make answers that no client expects

_PROBLEMS = ("invalid_name", "unknown_gallery", "other_embeddings", "gallery_damaged", "store_unavailable")
_Conditions = dict[str, str | int | bool]


class SearchOptions(CompareOptions):
    """The query of /v1/search."""

    gallery: str = Field(min_length=1, max_length=64, description="The gallery's name", examples=["holiday"])
    k: int = Field(10, ge=1, le=MAX_K, description="How many items to answer for each photo, nearest first")
    where: str | None = Field(
        None,
        max_length=4096,
        description="JSON: only items whose metadata have these values (text, whole numbers, truth values)",
        examples=['{"label":"sea"}'],
    )


class HitInfo(BaseModel):
    """An item: its id, its cosine similarity to the photo (-1..1), and its metadata."""

    id: str
    score: float
    metadata: dict[str, str | int | float | bool | None]


class SearchAnswer(Answered):
    """The answer of /v1/search."""

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
    hits: list[list[HitInfo]] = Field(description="For each photo its items, nearest first")
    gallery: str
    space: Space
    dim: int


def router(engine: Engine, stores: Stores, max_photos: int) -> APIRouter:
    """The route over the galleries of `stores`."""
    router = APIRouter(prefix="/v1", tags=["galleries"])
    galleries, threads = stores.galleries, stores.threads

    @router.post(
        "/search",
        response_model=SearchAnswer,
        responses=problems(*MANY_PROBLEMS, *MODEL_PROBLEMS, *_PROBLEMS),
        openapi_extra=MANY_PHOTOS,
    )
    async def search(request: Request, options: Annotated[SearchOptions, Query()]) -> Response:
        """Find what is like one photo or several in a gallery."""
        where = _conditions(options.where)
        found = await threads.run(lambda: galleries.about(options.gallery))
        compared = await embed_for(engine, found, await read_photos(request, max_photos), options)
        kind, vectors = compared.kind, compared.answer.embeddings
        hits = await threads.run(lambda: galleries.search(options.gallery, kind, vectors, options.k, where))
        fields: dict[str, Any] = {"hits": hits, "gallery": options.gallery}
        return json_response(fields | of_kind(kind) | about(compared.answer))

    return router


def _conditions(text: str | None) -> _Conditions | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=_Conditions)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        detail = 'where is a JSON object of texts, whole numbers and truth values, as {"label":"sea"}.'
        raise Refused(422, "invalid_option", detail) from error
