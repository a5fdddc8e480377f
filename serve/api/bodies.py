"""The bodies of requests with photos that have ids, metadata or classes, for OpenAPI."""

from __future__ import annotations

from typing import Any

from serve.api.described import IMAGE_PART, MANY_PHOTOS, PIXEL
from serve.photos import HOW_CLASSES, HOW_ITEMS

_FILE: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
_BASE64: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "string", "contentEncoding": "base64"}}
_FIELDS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
_RAW: dict[str, Any] = {
    kind: content
    for kind, content in MANY_PHOTOS["requestBody"]["content"].items()
    if kind not in ("multipart/form-data", "application/json")
}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "required": list(required), "properties": properties}
    return {"schema": schema | {"additionalProperties": False}}


def _body(how: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "description": how + ".", "content": content}}


_TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 256}}
_FILES: dict[str, Any] = {"type": "array", "minItems": 1, "items": _FILE}

ITEM_PHOTOS = _body(
    HOW_ITEMS,
    _RAW
    | {
        "multipart/form-data": _object(
            {"image": _FILES, "id": _TEXTS, "metadata": {"type": "array", "items": {"type": "string"}}}, "image"
        )
        | {"encoding": IMAGE_PART},
        "application/json": _object(
            {"images": _BASE64, "ids": _TEXTS, "metadata": {"type": "array", "items": _FIELDS}}, "images"
        )
        | {"example": {"images": [PIXEL], "ids": ["beach"], "metadata": [{"label": "sea"}]}},
    },
)
"""What `read_items` reads."""

CLASS_PHOTOS = _body(
    HOW_CLASSES,
    {
        "multipart/form-data": {"schema": {"type": "object", "additionalProperties": _FILES}},
        "application/json": _object({"classes": {"type": "object", "additionalProperties": _BASE64}}, "classes")
        | {"example": {"classes": {"cat": [PIXEL], "dog": [PIXEL]}}},
    },
)
"""What `read_classes` reads."""
