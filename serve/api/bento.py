"""GET /schema.json: the short routes for `bentoml.SyncHTTPClient`, which asks there what it may call.

They are not `@bentoml.api` methods: BentoML would decode the photo itself, answer a broken one with 500, and fetch an
address that a client sends in place of a photo.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from serve.api.answers import json_response
from serve.api.short import ShortClassification, ShortEmbedding

_PHOTO = {
    "type": "object",
    "title": "Input",
    "properties": {"image": {"type": "file", "format": "image", "title": "Image"}},
    "required": ["image"],
}
_ANSWERS: dict[str, type[BaseModel]] = {"classify": ShortClassification, "embed": ShortEmbedding}

SCHEMA: dict[str, Any] = {
    "name": "leap-zoo",
    "type": "service",
    "routes": [
        {
            "name": name,
            "route": f"/{name}",
            "doc": answer.__doc__,
            "batchable": False,
            "input": _PHOTO,
            "output": answer.model_json_schema(),
        }
        for name, answer in _ANSWERS.items()
    ],
}


def router() -> APIRouter:
    """The document, in the form that BentoML's own services give it."""
    router = APIRouter(include_in_schema=False)

    @router.get("/schema.json")
    async def schema() -> Response:
        return json_response(SCHEMA)

    return router
