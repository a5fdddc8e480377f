"""The HTTP routes: /classify, /embed and /models, and the one shape of every error."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from leap_zoo import errors
from serve.engine import Engine, Space
from serve.images import read_photo
from serve.problems import Problem, Refused

logger = logging.getLogger("leap_zoo.serve")

MAX_TOP = 1000


class ClassifyOptions(BaseModel):
    """The query of /classify."""

    model_config = ConfigDict(extra="forbid")
    top: int = Field(5, ge=1, le=MAX_TOP, description="How many classes to answer, best first")
    head: str | None = Field(None, max_length=64, description="The classification head; GET /models lists them")


class EmbedOptions(BaseModel):
    """The query of /embed."""

    model_config = ConfigDict(extra="forbid")
    space: Space = Field("student", description="The student's own space, or the teacher's: comparable with its index")


_OPTIONS: dict[str, type[BaseModel]] = {"/classify": ClassifyOptions, "/embed": EmbedOptions}


class Prediction(BaseModel):
    """One class: its label, its softmax score in 0..1, its index among the labels of the head."""

    label: str
    score: float
    index: int


class Classification(BaseModel):
    """The answer of /classify; `milliseconds` cover decoding and inference."""

    predictions: list[Prediction] = Field(description="Best first")
    model: str
    head: str
    precision: str
    milliseconds: float


class Embedding(BaseModel):
    """The answer of /embed; `milliseconds` cover decoding and inference."""

    embedding: list[float] = Field(description="float32, of unit length")
    dim: int
    space: Space
    model: str
    precision: str
    milliseconds: float


class HeadInfo(BaseModel):
    """A classification head and how many classes it knows."""

    name: str
    classes: int


class ModelInfo(BaseModel):
    """A served model, from its card."""

    id: str
    revision: str
    description: str
    parameters: int
    precision: str
    bytes: int
    sha256: str
    heads: list[HeadInfo]
    default_head: str
    embedding_dims: dict[Space, int]


class Models(BaseModel):
    """The answer of GET /models."""

    models: list[ModelInfo]


_PHOTO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One photo: JPEG, PNG, WebP, GIF, BMP or TIFF",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "contentMediaType": "application/octet-stream"}},
                }
            },
            "image/*": {"schema": {}},
            "application/octet-stream": {"schema": {}},
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "model": Problem}
    for status, meaning in {
        400: "No photo, several, or one that cannot be decoded",
        413: "Too many bytes or pixels",
        415: "These bytes are no photo",
        422: "An option is unknown or out of range",
        503: "Too many photos are waiting",
    }.items()
}


def routes(engine: Engine) -> APIRouter:
    """The API over `engine`."""
    router = APIRouter()
    card, artifact = engine.model.card, engine.model.artifact

    @router.post("/classify", responses=_PROBLEMS, openapi_extra=_PHOTO_BODY)
    async def classify(request: Request, options: Annotated[ClassifyOptions, Query()]) -> Classification:
        """Name what is on a photo."""
        answer = await engine.classify(await read_photo(request), top=options.top, head=options.head)
        return Classification(
            predictions=[Prediction(label=p.label, score=p.score, index=p.index) for p in answer.predictions],
            model=card.id,
            head=answer.head,
            precision=artifact.precision,
            milliseconds=answer.milliseconds,
        )

    @router.post("/embed", responses=_PROBLEMS, openapi_extra=_PHOTO_BODY)
    async def embed(request: Request, options: Annotated[EmbedOptions, Query()]) -> Embedding:
        """Turn a photo into a vector."""
        answer = await engine.embed(await read_photo(request), space=options.space)
        return Embedding(
            embedding=answer.embedding.tolist(),
            dim=answer.embedding.size,
            space=answer.space,
            model=card.id,
            precision=artifact.precision,
            milliseconds=answer.milliseconds,
        )

    @router.get("/models")
    async def models() -> Models:
        """Which models answer here."""
        info = ModelInfo(
            id=card.id,
            revision=card.revision,
            description=card.description,
            parameters=card.parameters,
            precision=artifact.precision,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            heads=[HeadInfo(name=head.name, classes=len(head.labels)) for head in card.heads],
            default_head=card.default_head,
            embedding_dims={"student": card.embedding_dims.student, "teacher": card.embedding_dims.teacher},
        )
        return Models(models=[info])

    return router


def answer_errors(app: FastAPI) -> None:
    """Give every error of `app` the shape of a Problem. None of the answers holds a path or a stack trace."""

    @app.exception_handler(Refused)
    async def _(_: Request, refused: Refused) -> Response:
        return refused.response()

    @app.exception_handler(errors.LeapZooError)
    async def _(_: Request, error: errors.LeapZooError) -> Response:
        return refusal_of(error).response()

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        known = list(_OPTIONS[request.url.path].model_fields)
        detail = " ".join(_explain(one, known) for one in error.errors())
        return Refused(422, "invalid_option", detail).response()

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> Response:
        code = {404: "unknown_path", 405: "wrong_method"}.get(error.status_code, "http_error")
        detail = {405: "This path does not take that method. GET / says how it is called."}
        return Refused(error.status_code, code, detail.get(error.status_code, error.detail), error.headers).response()

    @app.exception_handler(Exception)
    async def _(_: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, so uvicorn logs it once, with its traceback.
        return Refused(500, "internal_error", "The server failed at this request. Its log says why.").response()


_CODES: dict[type[errors.LeapZooError], tuple[int, str]] = {
    errors.NotAnImage: (errors.NotAnImage.status, "not_an_image"),
    errors.UndecodableImage: (errors.UndecodableImage.status, "undecodable_image"),
    errors.ImageTooLarge: (errors.ImageTooLarge.status, "image_too_large"),
    errors.UnknownHead: (422, "unknown_head"),
    errors.UnknownSpace: (422, "unknown_space"),
    errors.InvalidArgument: (422, "invalid_option"),
}


def refusal_of(error: errors.LeapZooError) -> Refused:
    """What a client is told about `error`. One that no client can cause is logged, and answered without its text."""
    known = _CODES.get(type(error))
    if known is None:
        logger.error("a request failed on the server's side", exc_info=error)
        return Refused(500, "internal_error", "The server failed at this request. Its log says why.")
    return Refused(*known, _sentence(str(error)))


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:].rstrip(".") + "."


def _explain(error: dict[str, Any], known: list[str]) -> str:
    name = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        return f"Unknown option {errors.short(name)}{errors.nearest(name, known)}."
    return f"{name}: {error['msg']}."
