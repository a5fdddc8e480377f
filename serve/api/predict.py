"""POST /v1/classify and /v1/embed: one photo or many, by any model that is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from leap_zoo import CustomHead, UnknownHead
from leap_zoo.errors import nearest, short
from serve.api.answers import Classification, Embeddings, Encoding, about, encoded, json_response
from serve.api.described import MANY_PHOTOS, MANY_PROBLEMS, MODEL_PROBLEMS, problems
from serve.engine import Classified, Engine, Space
from serve.photos import read_photos

MAX_TOP = 1000


class Heads(Protocol):
    """The heads that clients have made."""

    def get(self, name: str) -> CustomHead:
        """The head of that name. Raises UnknownHead. May read the disk."""
        ...


class ModelOptions(BaseModel):
    """Which model answers."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, max_length=64, description="A model's id; GET /v1/models lists them")
    precision: Literal["fp32", "fp16", "int8"] | None = Field(
        None, description="Which file of the model; default: int8 where it has one"
    )


class ClassifyOptions(ModelOptions):
    """The query of /v1/classify."""

    top: int = Field(5, ge=1, le=MAX_TOP, description="How many classes to answer, best first")
    head: str | None = Field(None, max_length=64, description="One of the model's heads, or one made at /v1/heads")


class EmbedOptions(ModelOptions):
    """The query of /v1/embed."""

    space: Space = Field("student", description="The student's own space, or the teacher's: comparable with its index")
    encoding: Encoding = Field(
        "float",
        description="float: numbers. base64: of little-endian float32. int8: base64 of one signed byte per number, to "
        "be multiplied by the photo's scale",
    )


OPTIONS: dict[str, type[ModelOptions]] = {"/v1/classify": ClassifyOptions, "/v1/embed": EmbedOptions}
"""The query of each route."""


def router(engine: Engine, heads: Heads, max_photos: int) -> APIRouter:
    """The two routes over `engine`; `heads` are those that clients have made."""
    router = APIRouter(prefix="/v1", tags=["photos"])
    embed_problems = problems(*MANY_PROBLEMS, *MODEL_PROBLEMS)
    classify_problems = problems(*MANY_PROBLEMS, *MODEL_PROBLEMS, "unknown_head", "head_of_another_model")

    @router.post("/classify", response_model=Classification, responses=classify_problems, openapi_extra=MANY_PHOTOS)
    async def classify(request: Request, options: Annotated[ClassifyOptions, Query()]) -> Response:
        """Name what is on one photo or several."""
        answer = await classified(engine, heads, await read_photos(request, max_photos), options)
        fields = {"predictions": answer.predictions, "head": answer.head}
        doubt = {
            "unsure": [one.unsure for one in answer.predictions],
            "distances": [one.distance for one in answer.predictions],
        }
        return json_response(fields | about(answer) | doubt)

    @router.post("/embed", response_model=Embeddings, responses=embed_problems, openapi_extra=MANY_PHOTOS)
    async def embed(request: Request, options: Annotated[EmbedOptions, Query()]) -> Response:
        """Turn one photo or several into vectors."""
        photos = await read_photos(request, max_photos)
        answer = await engine.embed(photos, model=options.model, precision=options.precision, space=options.space)
        return json_response(encoded(answer.embeddings, options.encoding) | {"space": answer.space} | about(answer))

    return router


async def classified(engine: Engine, heads: Heads, photos: Sequence[bytes], options: ClassifyOptions) -> Classified:
    """`Engine.classify` with a head of the model's own, or one that a client has made. Raises as that does."""
    answer = await engine.classify(
        photos,
        model=options.model,
        precision=options.precision,
        head=await _head(engine, heads, options),
        top=options.top,
    )
    return answer if answer.head else replace(answer, head=options.head or "")


async def _head(engine: Engine, heads: Heads, options: ClassifyOptions) -> str | CustomHead | None:
    """A model's own head by its name, one of a client by itself."""
    name = options.head
    if name is None:
        return None
    model = engine.models.get(options.model, options.precision)
    if name in model.heads:
        return name
    try:
        return await engine.run(lambda: heads.get(name))
    except UnknownHead as error:
        own = f"{model.card.id} has no head {short(name)}{nearest(name, model.heads)}"
        raise UnknownHead(f"{own}, and {error}") from error
