"""POST /v1/classify and /v1/embed: one photo or several, by any model that is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Literal, get_type_hints
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from leap_zoo import CustomHead, UnknownHead
from leap_zoo.errors import nearest, short
from serve.api.schemas import PHOTOS_FORM, Classification, Embeddings, Encoding, about, body, encoded, json_response
from serve.engine import Classified, Engine, Space
from serve.heads import Heads
from serve.photos import HOW_MANY, ImagesBody, read_photos

MAX_TOP = 1000
_LONGEST_KEPT = 256  # bytes of a query


class ModelOptions(BaseModel):
    """Which model answers."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, max_length=64, description="A model's id; GET /v1/models lists them")
    precision: Literal["fp32", "fp16", "int8"] | None = Field(
        None, description="Which file of the model; default: int8 if it has one"
    )


class ClassifyOptions(ModelOptions):
    """The query of /v1/classify."""

    top: int = Field(5, ge=1, le=MAX_TOP, description="How many classes to return, best first")
    head: str | None = Field(None, max_length=64, description="One of the model's heads, or one created at /v1/heads")


class EmbedOptions(ModelOptions):
    """The query of /v1/embed."""

    space: Space = Field("student", description="teacher: comparable with an index of the teacher's embeddings")
    encoding: Encoding = Field(
        "float",
        description="float: numbers. base64: of little-endian float32. int8: base64 of one signed byte per number, to "
        "be multiplied by the photo's scale",
    )


class HotRoute(APIRoute):
    """A route that parses its own query: FastAPI's work per request costs more than the rest of the service's.

    The endpoint takes the request and its options.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["method"] != "POST":
            await super().handle(scope, receive, send)  # which refuses
            return
        query: bytes = scope["query_string"]
        # A client must not fill the memory with queries.
        options = (_options if len(query) <= _LONGEST_KEPT else _options.__wrapped__)(self.endpoint, query)
        response: Response = await self.endpoint(Request(scope, receive), options)
        await response(scope, receive, send)


@lru_cache(maxsize=256)
def _options(endpoint: Callable[..., object], query: bytes) -> ModelOptions:
    """The query as the endpoint's options. Raises RequestValidationError."""
    kind: type[ModelOptions] = get_type_hints(endpoint)["options"]
    try:
        return kind.model_validate(dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)))
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def router(engine: Engine, heads: Heads, max_photos: int) -> APIRouter:
    """The two routes for `engine`; `heads` are those that clients have created."""
    router = APIRouter(prefix="/v1", tags=["photos"], route_class=HotRoute)
    photos_body = body(HOW_MANY, ImagesBody, PHOTOS_FORM)

    @router.post("/classify", response_model=Classification, openapi_extra=photos_body)
    async def classify(request: Request, options: Annotated[ClassifyOptions, Query()]) -> Response:
        """Classify one photo or several."""
        answer = await classified(engine, heads, await read_photos(request, max_photos), options)
        fields = {"predictions": answer.predictions, "head": answer.head}
        doubt = {
            "unsure": [one.unsure for one in answer.predictions],
            "distances": [one.distance for one in answer.predictions],
        }
        return json_response(fields | about(answer) | doubt)

    @router.post("/embed", response_model=Embeddings, openapi_extra=photos_body)
    async def embed(request: Request, options: Annotated[EmbedOptions, Query()]) -> Response:
        """Turn one photo or several into vectors."""
        photos = await read_photos(request, max_photos)
        answer = await engine.embed(photos, model=options.model, precision=options.precision, space=options.space)
        return json_response(encoded(answer.embeddings, options.encoding) | {"space": answer.space} | about(answer))

    return router


async def classified(engine: Engine, heads: Heads, photos: Sequence[bytes], options: ClassifyOptions) -> Classified:
    """`Engine.classify` with one of the model's heads, or one that a client has created. Raises what that raises."""
    answer = await engine.classify(
        photos,
        model=options.model,
        precision=options.precision,
        head=await _head(engine, heads, options),
        top=options.top,
    )
    return answer if answer.head else replace(answer, head=options.head or "")


async def _head(engine: Engine, heads: Heads, options: ClassifyOptions) -> str | CustomHead | None:
    """The name of a model's own head, or a client's head itself."""
    name = options.head
    if name is None:
        return None
    model = engine.models.get(options.model, options.precision)
    if name in model.heads:
        return name
    try:
        return await engine.run(lambda: heads.get(name).head)
    except UnknownHead as error:
        own = f"{model.card.id} has no head {short(name)}{nearest(name, model.heads)}"
        raise UnknownHead(f"{own}, and {error}") from error
