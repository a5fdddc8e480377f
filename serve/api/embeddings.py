"""POST /v1/embeddings: the request of OpenAI's API, with photos as data URIs instead of texts."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta
from pydantic import BaseModel, Field
from starlette.responses import Response

from leap_zoo.card import Precision
from serve.api.schemas import base64_of, body, json_response
from serve.engine import Engine, Space
from serve.photos import PIXEL, none_missing, photos_of_texts, read_json
from serve.problems import Refused


class ImageInput(msgspec.Struct):
    """A photo as Jina's clients send it."""

    image: Annotated[str, Meta(description="base64, or data:image/jpeg;base64, and base64")]


class EmbeddingsRequest(msgspec.Struct):
    """The body. `space` and `precision` are extensions: pass them as `extra_body` of the openai client. Unknown fields,
    which some clients add, are ignored.
    """

    input: Annotated[
        str | ImageInput | list[str | ImageInput],
        Meta(
            description="One photo or several, each as data:image/jpeg;base64, and its base64",
            examples=[[f"data:image/png;base64,{PIXEL}"]],
        ),
    ]
    model: Annotated[str, Meta(max_length=64, description="A model's id; GET /v1/models lists them")] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(description="Must be the model's: vectors cannot be shortened")] | None = None
    user: Annotated[str, Meta(description="Ignored")] | None = None
    space: Space = "student"
    precision: Precision | None = None


class Row(BaseModel):
    """The vector of one photo, of unit length: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Photos have no tokens."""

    prompt_tokens: Literal[0]
    total_tokens: Literal[0]


class EmbeddingList(BaseModel):
    """The answer of /v1/embeddings."""

    object: Literal["list"]
    data: list[Row]
    model: str = Field(examples=["leap-tiny"])
    created: int = Field(description="Seconds since 1970")
    usage: Usage


def router(engine: Engine, max_photos: int) -> APIRouter:
    """The route over `engine`."""
    router = APIRouter(prefix="/v1", tags=["photos"])
    request_body = body("JSON", EmbeddingsRequest, raw=False)

    @router.post("/embeddings", response_model=EmbeddingList, openapi_extra=request_body)
    async def create_embeddings(request: Request) -> Response:
        """Turn photos into vectors, for clients of OpenAI's API."""
        asked = await _asked(await request.body())
        inputs = asked.input if isinstance(asked.input, list) else [asked.input]
        texts = [one.image if isinstance(one, ImageInput) else one for one in inputs]
        photos = none_missing(await photos_of_texts(texts, max_photos))
        model = engine.models.get(asked.model, asked.precision)
        dim = getattr(model.card.embedding_dims, asked.space)
        if asked.dimensions not in (None, dim):
            detail = f"Vectors of {model.card.id} always have {dim} dimensions in the {asked.space} space."
            raise Refused("invalid_option", f"{detail} Leave `dimensions` out.")
        answer = await engine.embed(photos, model=asked.model, precision=asked.precision, space=asked.space)
        rows = answer.embeddings
        vectors = [base64_of(row) for row in rows] if asked.encoding_format == "base64" else rows
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        about = {"model": answer.model, "created": int(time.time()), "usage": usage}
        return json_response({"object": "list", "data": data} | about)

    return router


async def _asked(body: bytes) -> EmbeddingsRequest:
    try:
        return await read_json(body, EmbeddingsRequest)
    except Refused as refused:
        if "`$.input" not in refused.detail:
            raise
        hint = (
            "Send photos as data URIs, not tokens: for LangChain's OpenAIEmbeddings, check_embedding_ctx_length=False."
        )
        raise Refused(refused.code, f"{refused.detail} {hint}") from refused
