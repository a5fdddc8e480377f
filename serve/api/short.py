"""The short routes, for one photo and the default model: /classify, /embed and /models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serve.api.answers import Prediction, json_response
from serve.api.described import ONE_PHOTO, PHOTO_PROBLEMS, READ_PROBLEMS, problems
from serve.api.models import ModelHead
from serve.api.predict import MAX_TOP
from serve.engine import Engine, Space
from serve.photos import read_photo

_CLASSIFIED: dict[str, Any] = {
    "predictions": [{"label": "golf ball", "score": 0.93, "index": 574}],
    "head": "imagenet1k",
}
_EMBEDDED: dict[str, Any] = {"embedding": [0.6, 0.8], "dim": 2, "space": "student"}
_BY: dict[str, Any] = {"model": "leap-tiny", "precision": "int8", "milliseconds": 2.5}


class ShortClassifyOptions(BaseModel):
    """The query of /classify."""

    model_config = ConfigDict(extra="forbid")
    top: int = Field(5, ge=1, le=MAX_TOP, description="How many classes to answer, best first")
    head: str | None = Field(None, max_length=64, description="The classification head; GET /models lists them")


class ShortEmbedOptions(BaseModel):
    """The query of /embed."""

    model_config = ConfigDict(extra="forbid")
    space: Space = Field("student", description="The student's own space, or the teacher's: comparable with its index")


class ShortClassification(BaseModel):
    """The answer of /classify; `milliseconds` cover decoding and inference."""

    model_config = ConfigDict(json_schema_extra={"example": _CLASSIFIED | _BY})
    predictions: list[Prediction] = Field(description="Best first")
    model: str
    head: str
    precision: str
    milliseconds: float


class ShortEmbedding(BaseModel):
    """The answer of /embed; `milliseconds` cover decoding and inference."""

    model_config = ConfigDict(json_schema_extra={"example": _EMBEDDED | _BY})
    embedding: list[float] = Field(description="float32, of unit length")
    dim: int
    space: Space
    model: str
    precision: str
    milliseconds: float


class ShortModelInfo(BaseModel):
    """The served model, from its card."""

    id: str
    revision: str
    description: str
    parameters: int
    precision: str
    bytes: int
    sha256: str
    heads: list[ModelHead]
    default_head: str | None
    embedding_dims: dict[Space, int]


class ShortModels(BaseModel):
    """The answer of GET /models."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "models": [
                    {
                        "id": "leap-tiny",
                        "revision": "7bc54546bcc9",
                        "description": "A small vision transformer",
                        "parameters": 5_500_000,
                        "precision": "int8",
                        "bytes": 6_300_000,
                        "sha256": "0" * 64,
                        "heads": [{"name": "imagenet1k", "classes": 1000}],
                        "default_head": "imagenet1k",
                        "embedding_dims": {"student": 192, "teacher": 192},
                    }
                ]
            }
        }
    )
    models: list[ShortModelInfo]


def router(engine: Engine) -> APIRouter:
    """The short routes over `engine`."""
    router = APIRouter(tags=["short"])
    embed_problems = problems(*PHOTO_PROBLEMS, "several_photos", "invalid_option")
    classify_problems = problems(*PHOTO_PROBLEMS, "several_photos", "invalid_option", "unknown_head")

    @router.post("/classify", response_model=ShortClassification, responses=classify_problems, openapi_extra=ONE_PHOTO)
    async def classify_one(request: Request, options: Annotated[ShortClassifyOptions, Query()]) -> Response:
        """Name what is on a photo."""
        answer = await engine.classify([await read_photo(request)], top=options.top, head=options.head)
        fields = {name: getattr(answer, name) for name in ("model", "head", "precision", "milliseconds")}
        return json_response({"predictions": answer.predictions[0]} | fields)

    @router.post("/embed", response_model=ShortEmbedding, responses=embed_problems, openapi_extra=ONE_PHOTO)
    async def embed_one(request: Request, options: Annotated[ShortEmbedOptions, Query()]) -> Response:
        """Turn a photo into a vector."""
        answer = await engine.embed([await read_photo(request)], space=options.space)
        vector = answer.embeddings[0]
        fields = {name: getattr(answer, name) for name in ("space", "model", "precision", "milliseconds")}
        return json_response({"embedding": vector, "dim": vector.size} | fields)

    @router.get("/models", responses=problems(*READ_PROBLEMS))
    async def served_model() -> ShortModels:
        """The model that answers here."""
        card, artifact = engine.models.default.card, engine.models.default.artifact
        info = ShortModelInfo(
            id=card.id,
            revision=card.revision,
            description=card.description,
            parameters=card.parameters,
            precision=artifact.precision,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            heads=[ModelHead(name=head.name, classes=len(head.labels)) for head in card.heads],
            default_head=card.default_head if card.answers else None,
            embedding_dims={"student": card.embedding_dims.student, "teacher": card.embedding_dims.teacher},
        )
        return ShortModels(models=[info])

    return router
