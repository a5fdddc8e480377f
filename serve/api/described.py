"""What the routes take and answer, for OpenAPI: photo bodies and problems, which FastAPI cannot derive from code."""

from __future__ import annotations

from typing import Any

from serve.photos import HOW_MANY
from serve.problems import CODES, MEDIA_TYPE, problem

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mO4o6EBAAMQAS0Qc/Z2AAAAAElFTkSuQmCC"
"""A PNG of one reddish pixel, in base64."""

_SENT = ("missing_photo", "undecodable_image", "image_too_large", "not_an_image")

READ_PROBLEMS = ("missing_key", "wrong_key", "internal_error", "busy", "timed_out")
"""What can go wrong where nothing is sent."""

CHANGE_PROBLEMS = (*READ_PROBLEMS, "foreign_origin")
"""What can go wrong where something is changed, but nothing is sent."""

_ANY = (*CHANGE_PROBLEMS, "body_too_slow", "body_too_large")
_FORM = ("broken_form", "image_is_text", "unexpected_field", "unsupported_content_type")

PHOTO_PROBLEMS = (*_SENT, *_FORM, *_ANY)
"""What can go wrong where one photo is sent as bytes or in a form."""

JSON_PROBLEMS = (
    *_SENT,
    *_ANY,
    "too_many_photos",
    "broken_json",
    "broken_base64",
    "broken_data_uri",
    "invalid_body",
    "address_not_fetched",
)
"""What can go wrong where photos are sent as JSON."""

MANY_PROBLEMS = tuple(dict.fromkeys((*PHOTO_PROBLEMS, *JSON_PROBLEMS)))
"""What can go wrong where photos are sent in any of the three ways."""

MODEL_PROBLEMS = ("invalid_option", "unknown_model", "model_not_here")
"""What can go wrong where a model may be chosen."""


_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"description": "How a key is sent", "schema": {"type": "string"}, "required": True}},
    503: {"Retry-After": {"description": "Seconds until it is worth another try", "schema": {"type": "integer"}}},
}


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may refuse with these codes, an example of each."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, detail = CODES[code]
        response = by_status.setdefault(status, {"description": "", "content": {MEDIA_TYPE: {}}})
        content = response["content"][MEDIA_TYPE]
        content["schema"] = {"$ref": "#/components/schemas/Problem"}
        example = problem(status, code, detail).model_dump(exclude_none=True)
        content.setdefault("examples", {})[code] = {"summary": detail, "value": example}
        response["description"] = ", ".join(content["examples"])
        if status in _HEADERS:
            response["headers"] = _HEADERS[status]
    return dict(sorted(by_status.items()))


def file_answer(kind: str, description: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route whose answer is a file of the media type `kind`, to be saved."""
    disposition = {"description": "A name for the file", "schema": {"type": "string"}, "required": True}
    return {200: {"description": description, "content": {kind: {}}, "headers": {"Content-Disposition": disposition}}}


_PHOTO = "The bytes of one photo: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
_FILE: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
_RAW: dict[str, Any] = {"image/*": {"schema": {"description": _PHOTO}}, "application/octet-stream": {"schema": {}}}


IMAGE_PART: dict[str, Any] = {"image": {"contentType": "image/*"}}
"""What the file fields of a form are."""


def _form(file: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["image"], "properties": {"image": file}}
    return {"multipart/form-data": {"schema": schema, "encoding": IMAGE_PART}}


def _body(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "description": description, "content": content}}


_TEXTS = {"type": "array", "minItems": 1, "items": {"type": "string", "contentEncoding": "base64"}}
_IMAGES = {"type": "object", "required": ["images"], "additionalProperties": False, "properties": {"images": _TEXTS}}

MANY_PHOTOS = _body(
    f"{HOW_MANY}.",
    _RAW
    | _form({"type": "array", "minItems": 1, "items": _FILE})
    | {"application/json": {"schema": _IMAGES, "example": {"images": [PIXEL]}}},
)
"""What `read_photos` reads."""
