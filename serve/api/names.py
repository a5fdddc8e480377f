"""The name in a path, for OpenAPI. Whether it is one is for the stores to say."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

_SCHEMA = {"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "minLength": 1, "maxLength": 64}

GalleryName = Annotated[str, Path(json_schema_extra=_SCHEMA, examples=["holiday"], description="The gallery's name")]
HeadName = Annotated[str, Path(json_schema_extra=_SCHEMA, examples=["pets"], description="The head's name")]
