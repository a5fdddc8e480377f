"""GET /v1/models: the models that are served. The list has the format of OpenAI's, with additional fields."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from leap_zoo import ModelCard
from serve.engine import Engine, Models, Space


class ModelHead(BaseModel):
    """A classification head and its number of classes."""

    name: str
    classes: int


class FileInfo(BaseModel):
    """A published file of a model, as its card lists it; `loaded`: whether it is in memory now."""

    file: str
    format: str
    precision: str
    bytes: int
    sha256: str
    loaded: bool


class ModelInfo(BaseModel):
    """A model, from its card. `default`: whether it answers requests that do not name a model."""

    id: str = Field(examples=["leap-tiny"])
    object: Literal["model"] = "model"
    owned_by: Literal["leap-zoo"] = "leap-zoo"
    created: Literal[0] = Field(0, description="For clients of OpenAI's API; always 0")
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

    object: Literal["list"] = "list"
    data: list[ModelInfo]


def router(engine: Engine) -> APIRouter:
    """The routes that list the models of `engine`."""
    router = APIRouter(prefix="/v1", tags=["models"])

    @router.get("/models")
    async def list_models() -> ModelList:
        """List the models that are served, and their precisions."""
        cards = {model.card.id: model.card for model in engine.models.all()}
        return ModelList(data=[_info(engine.models, card) for card in cards.values()])

    @router.get("/models/{model}")
    async def show_model(model: Annotated[str, Path(examples=["leap-tiny"])]) -> ModelInfo:
        """Describe a model."""
        return _info(engine.models, engine.models.get(model).card)

    return router


def _info(models: Models, card: ModelCard) -> ModelInfo:
    loaded = {(model.card.id, model.artifact.file) for model in models.all()}
    fields = msgspec.to_builtins(card) | {
        "default": card.id == models.default.card.id,
        "heads": [ModelHead(name=head.name, classes=len(head.labels)) for head in card.heads],
        "default_head": card.default_head if card.answers else None,
    }
    for artifact in fields["artifacts"]:
        artifact["loaded"] = (card.id, artifact["file"]) in loaded
    return ModelInfo.model_validate(fields)
