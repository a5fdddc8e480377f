"""Bodies with photos, for the schema: FastAPI knows one kind of body for a route, and these are sent in several."""

from __future__ import annotations

from typing import Any

import msgspec

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


def body(how: str, json: type[msgspec.Struct], form: dict[str, Any] | None = None, *, raw: bool = True) -> Any:
    """`openapi_extra` of a route that reads JSON of this type, a form (None: no form), or one photo as it is."""
    schemas = msgspec.json.schema_components([json], ref_template="#/$defs/{name}")[1]
    own = schemas.pop(json.__name__)
    content: dict[str, Any] = {"application/json": {"schema": own | ({"$defs": schemas} if schemas else {})}}
    if form is not None:
        encoding = {"encoding": {"image": {"contentType": "image/*"}}} if "properties" in form else {}
        content["multipart/form-data"] = {"schema": form} | encoding
    return {"requestBody": {"required": True, "description": how, "content": content | (_RAW if raw else {})}}
