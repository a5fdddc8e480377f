"""The models that are served, and photos through them: /v1/classify and /v1/embed, for one photo or several; and in the
formats of OpenAI's API, /v1/models with additional fields and /v1/embeddings with data URIs instead of texts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from leap_zoo import CustomHead, Model, UnknownHead
from leap_zoo.errors import nearest, short
from serve.api.schemas import PHOTOS_FORM, Classification, Embeddings, Encoding, about, body, encoded, json_response
from serve.engine import Classified, Engine, Models, Space
from serve.photos import HOW_MANY, PIXEL, ImagesBody, none_missing, photos_of_texts, read_json, read_photos
from serve.problems import Refused
from serve.stores import Heads

MAX_TOP = 1000


class ModelOptions(BaseModel):
    """Which model answers."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = Field(None, max_length=64, description="A model's id; GET /v1/models lists them")


class ClassifyOptions(ModelOptions):
    """The query of /v1/classify."""

    top: int = Field(5, ge=1, le=MAX_TOP, description="How many classes to return, best first")
    head: str | None = Field(None, max_length=64, description="One of the model's heads, or one created at /v1/heads")


class EmbedOptions(ModelOptions):
    """The query of /v1/embed."""

    space: Space = Field("student", description="teacher: comparable with an index of the teacher's embeddings")
    encoding: Encoding = Field("float", description="float: numbers. base64: of little-endian float32")


class ModelHead(BaseModel):
    """A classification head and its number of classes."""

    name: str
    classes: int


class ModelInfo(BaseModel):
    """A model, from its card, and the file that answers. `default`: for requests that do not name a model."""

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
    file: str
    precision: str


class ModelList(BaseModel):
    """The answer of GET /v1/models, the default model first."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class ImageInput(msgspec.Struct):
    """A photo as Jina's clients send it."""

    image: Annotated[str, Meta(description="base64, or data:image/jpeg;base64, and base64")]


class EmbeddingsRequest(msgspec.Struct):
    """The body. `space` is an extension: pass it as `extra_body` of the openai client. Unknown fields, which some
    clients add, are ignored.
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


class Row(BaseModel):
    """The vector of one photo, of unit length: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """The answer of /v1/embeddings."""

    object: Literal["list"]
    data: list[Row]
    model: str = Field(examples=["leap-tiny"])
    created: int = Field(description="Seconds since 1970")
    usage: dict[Literal["prompt_tokens", "total_tokens"], Literal[0]]


class HotRoute(APIRoute):
    """A route that parses its own query: FastAPI's work per request costs more than the rest of the service's.

    The endpoint takes the request and its options.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["method"] != "POST":
            await super().handle(scope, receive, send)  # which refuses
            return
        kind: Any = self.dependant.query_params[0].field_info.annotation
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        try:
            options = kind.model_validate(dict(query))
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        response: Response = await self.endpoint(Request(scope, receive), options)
        await response(scope, receive, send)


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
        answer = await engine.embed(photos, model=options.model, space=options.space)
        vectors, dim = encoded(answer.embeddings, options.encoding), answer.embeddings.shape[1]
        fields = {"embeddings": vectors, "encoding": options.encoding, "dim": dim, "space": answer.space}
        return json_response(fields | about(answer))

    return router


def model_router(engine: Engine, max_photos: int) -> APIRouter:
    """The routes in the format of OpenAI's API: the models of `engine`, and embeddings."""
    router = APIRouter(prefix="/v1")

    @router.get("/models", tags=["models"])
    async def list_models() -> ModelList:
        """List the models that are served."""
        return ModelList(data=[_model_info(engine.models, model) for model in engine.models.all()])

    @router.get("/models/{model}", tags=["models"])
    async def show_model(model: Annotated[str, Path(examples=["leap-tiny"])]) -> ModelInfo:
        """Describe a model."""
        return _model_info(engine.models, engine.models.get(model))

    @router.post(
        "/embeddings",
        tags=["photos"],
        response_model=EmbeddingList,
        openapi_extra=body("JSON", EmbeddingsRequest, raw=False),
    )
    async def create_embeddings(request: Request) -> Response:
        """Turn photos into vectors, for clients of OpenAI's API."""
        asked = await _embeddings_request(await request.body())
        inputs = asked.input if isinstance(asked.input, list) else [asked.input]
        texts = [one.image if isinstance(one, ImageInput) else one for one in inputs]
        photos = none_missing(await photos_of_texts(texts, max_photos))
        model = engine.models.get(asked.model)
        dim = getattr(model.card.embedding_dims, asked.space)
        if asked.dimensions not in (None, dim):
            detail = f"Vectors of {model.card.id} always have {dim} dimensions in the {asked.space} space."
            raise Refused("invalid_option", f"{detail} Leave `dimensions` out.")
        answer = await engine.embed(photos, model=asked.model, space=asked.space)
        vectors = encoded(answer.embeddings, asked.encoding_format)
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        about = {"model": answer.model, "created": int(time.time()), "usage": usage}
        return json_response({"object": "list", "data": data} | about)

    return router


async def classified(engine: Engine, heads: Heads, photos: Sequence[bytes], options: ClassifyOptions) -> Classified:
    """`Engine.classify` with one of the model's heads, or one that a client has created. Raises what that raises."""
    head = await _head(engine, heads, options)
    answer = await engine.classify(photos, model=options.model, head=head, top=options.top)
    return answer if answer.head else replace(answer, head=options.head or "")


async def _head(engine: Engine, heads: Heads, options: ClassifyOptions) -> str | CustomHead | None:
    """The name of a model's own head, or a client's head itself."""
    name = options.head
    if name is None:
        return None
    model = engine.models.get(options.model)
    if name in model.heads:
        return name
    try:
        return await engine.run(lambda: heads.get(name).head)
    except UnknownHead as error:
        own = f"{model.card.id} has no head {short(name)}{nearest(name, model.heads)}"
        raise UnknownHead(f"{own}, and {error}") from error


async def _embeddings_request(body: bytes) -> EmbeddingsRequest:
    try:
        return await read_json(body, EmbeddingsRequest)
    except Refused as refused:
        if "`$.input" not in refused.detail:
            raise
        hint = (
            "Send photos as data URIs, not tokens: for LangChain's OpenAIEmbeddings, check_embedding_ctx_length=False."
        )
        raise Refused(refused.code, f"{refused.detail} {hint}") from refused


def _model_info(models: Models, model: Model) -> ModelInfo:
    card = model.card
    fields = {
        "default": card.id == models.default.card.id,
        "heads": [ModelHead(name=head.name, classes=len(head.labels)) for head in card.heads],
        "default_head": card.default_head if card.answers else None,
        "file": model.artifact.file,
        "precision": model.artifact.precision,
    }
    return ModelInfo.model_validate(msgspec.to_builtins(card) | fields)
