"""The schemas of bodies and answers that several routes share, and how numbers are written.

FastAPI supports one kind of body per route, but photos are sent in several. Rows of floats never pass through pydantic.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

from leap_zoo.gallery import Hit
from leap_zoo.model import Prediction
from serve.engine import Answer, Space

Encoding = Literal["float", "base64"]

_FILE: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
_TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}

PHOTOS_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "properties": {"image": {"type": "array", "minItems": 1, "items": _FILE}},
}
ITEMS_FORM: dict[str, Any] = PHOTOS_FORM | {
    "properties": PHOTOS_FORM["properties"] | {"id": _TEXTS, "metadata": _TEXTS},
    "additionalProperties": False,
}
CLASSES_FORM: dict[str, Any] = {"type": "object", "additionalProperties": _FILE}

_RAW: dict[str, Any] = {
    "image/*": {"schema": {"description": "The bytes of one photo: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"}},
    "application/octet-stream": {"schema": {}},
}


class Answered(BaseModel):
    """Which model answered, and how long it took."""

    model: str = Field(examples=["leap-tiny"])
    revision: str = Field(examples=["7bc54546bcc9"])
    precision: str = Field(examples=["int8"])
    milliseconds: float = Field(description="Decoding and inference of all photos, without time in the queue")
    decode_ms: float
    inference_ms: float
    queue_ms: float = Field(description="Until a thread started on the first photo")


class Classification(Answered):
    """The answer of /v1/classify."""

    predictions: list[list[Prediction]] = Field(description="For each photo, its classes, best first")
    unsure: list[bool] = Field(description="For each photo, whether it is unlike the head's training photos")
    distances: list[float | None] = Field(
        description="For each photo, its distance from the head's classes; null if the head has no threshold and is "
        "never unsure"
    )
    head: str = Field(examples=["imagenet1k"])


class Embeddings(Answered):
    """The answer of /v1/embed."""

    embeddings: list[list[float]] | list[str] = Field(description="For each photo, a vector of unit length")
    encoding: Encoding
    dim: int
    space: Space


class Classes(Answered):
    """The answer of the method `classify`."""

    predictions: list[Prediction] = Field(description="Best first")
    head: str
    unsure: bool = Field(description="Whether the photo is unlike the head's training photos")


class Embedding(Answered):
    """The answer of the method `embed`."""

    embedding: list[float] = Field(description="float32, of unit length")
    dim: int
    space: Space


class Hits(Answered):
    """The answer of the method `search`."""

    hits: list[Hit] = Field(description="Nearest first")
    gallery: str
    space: Space


def json_response(body: dict[str, Any]) -> Response:
    """`body`, in which arrays may be float32, as JSON."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def about(answer: Answer) -> dict[str, Any]:
    """The fields of `Answered`."""
    return {name: getattr(answer, name) for name in Answered.model_fields}


def encoded(rows: npt.NDArray[np.float32], encoding: Encoding | None) -> Any:
    """Embeddings (N, D), as numbers or each as base64 of little-endian float32."""
    return [base64.b64encode(row.astype("<f4")).decode() for row in rows] if encoding == "base64" else rows


def body(how: str, json: type[msgspec.Struct], form: dict[str, Any] | None = None, *, raw: bool = True) -> Any:
    """`openapi_extra` of a route that reads JSON of this type, a form (None: no form), or the bytes of one photo."""
    schemas = msgspec.json.schema_components([json], ref_template="#/$defs/{name}")[1]
    own = schemas.pop(json.__name__)
    content: dict[str, Any] = {"application/json": {"schema": own | ({"$defs": schemas} if schemas else {})}}
    if form is not None:
        encoding = {"encoding": {"image": {"contentType": "image/*"}}} if "properties" in form else {}
        content["multipart/form-data"] = {"schema": form} | encoding
    return {"requestBody": {"required": True, "description": how, "content": content | (_RAW if raw else {})}}
