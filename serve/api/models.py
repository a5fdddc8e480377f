"""GET /v1/models: what may be asked for. The list has the shape of OpenAI's, with fields of ours beside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from leap_zoo import ModelCard
from leap_zoo.card import Artifact
from serve.api.answers import json_response
from serve.api.described import READ_PROBLEMS, problems
from serve.engine import Engine, Models, Space

_EXAMPLE: dict[str, Any] = {
    "id": "leap-tiny",
    "object": "model",
    "owned_by": "leap-zoo",
    "revision": "7bc54546bcc9",
    "description": "A small vision transformer",
    "parameters": 5_500_000,
    "default": True,
    "heads": [{"name": "imagenet1k", "classes": 1000}],
    "default_head": "imagenet1k",
    "embedding_dims": {"student": 192, "teacher": 192},
    "artifacts": [
        {
            "file": "model_int8.onnx",
            "format": "onnx",
            "precision": "int8",
            "bytes": 6_300_000,
            "sha256": "0" * 64,
            "loaded": True,
        }
    ],
}


class ModelHead(BaseModel):
    """A classification head and how many classes it knows."""

    name: str
    classes: int


class FileInfo(BaseModel):
    """A published form of a model, as its card lists it; `loaded`: whether it is in memory now."""

    file: str
    format: str
    precision: str
    bytes: int
    sha256: str
    loaded: bool


class ModelInfo(BaseModel):
    """A model, from its card. `default`: whether it answers requests that name none."""

    id: str
    object: Literal["model"]
    owned_by: Literal["leap-zoo"]
    created: Literal[0] = Field(0, description="For clients of OpenAI's API; not known")
    revision: str
    description: str
    parameters: int
    default: bool
    heads: list[ModelHead]
    default_head: str | None
    embedding_dims: dict[Space, int]
    artifacts: list[FileInfo]


class ModelList(BaseModel):
    """The answer of GET /v1/models, the default model first."""

    model_config = ConfigDict(json_schema_extra={"example": {"object": "list", "data": [_EXAMPLE]}})
    object: Literal["list"]
    data: list[ModelInfo]


def router(engine: Engine) -> APIRouter:
    """The list of the models of `engine`."""
    router = APIRouter(prefix="/v1", tags=["models"])

    @router.get("/models", response_model=ModelList, responses=problems(*READ_PROBLEMS))
    async def list_models() -> Response:
        """Which models may be asked for, and in which precisions."""
        cards = {model.card.id: model.card for model in engine.models.all()}
        return json_response({"object": "list", "data": [_info(engine.models, card) for card in cards.values()]})

    @router.get("/models/{model}", response_model=ModelInfo, responses=problems(*READ_PROBLEMS, "unknown_model"))
    async def show_model(model: Annotated[str, Path(examples=["leap-tiny"])]) -> Response:
        """What a model is."""
        return json_response(_info(engine.models, engine.models.get(model).card))

    return router


def _info(models: Models, card: ModelCard) -> dict[str, Any]:
    loaded = {(model.card.id, model.artifact.file) for model in models.all()}
    return {
        "id": card.id,
        "object": "model",
        "owned_by": "leap-zoo",
        "created": 0,
        "revision": card.revision,
        "description": card.description,
        "parameters": card.parameters,
        "default": card.id == models.default.card.id,
        "heads": [{"name": head.name, "classes": len(head.labels)} for head in card.heads],
        "default_head": card.default_head if card.answers else None,
        "embedding_dims": {"student": card.embedding_dims.student, "teacher": card.embedding_dims.teacher},
        "artifacts": [_file(artifact, (card.id, artifact.file) in loaded) for artifact in card.artifacts],
    }


def _file(artifact: Artifact, loaded: bool) -> dict[str, Any]:
    names = ("file", "format", "precision", "bytes", "sha256")
    return {name: getattr(artifact, name) for name in names} | {"loaded": loaded}
