"""What the schema at /openapi.json says of the API as a whole: keys, groups of routes, health. Routes say the rest."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from serve.api.described import problems
from serve.problems import CODES, Problem
from serve.settings import ServeSettings

API_VERSION = "1.1.0"
"""Of the routes under /v1: the second number grows with what is added."""

_ABOUT = """Small vision transformers over HTTP. Photos are sent as bytes, as a form, or as base64 in JSON, at most
{photos} in one request; no address is ever fetched. Every error is `application/problem+json`, and its `code` is
stable. Every answer has the header `X-Request-ID`: the client's own, or a new one.

| code | status | meaning |
|---|---|---|
{codes}"""

TAGS = [
    {"name": "photos", "description": "Photos to classes or to vectors."},
    {"name": "models", "description": "What may be asked for."},
    {"name": "galleries", "description": "Vectors of photos that stay, and the search among them."},
    {"name": "heads", "description": "Classes of your own, for `/v1/classify?head=NAME`."},
    {"name": "zoo", "description": "The models themselves, for `leap-zoo pull --from`."},
    {"name": "operations", "description": "For whoever runs the server."},
]

_KEYS: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`X-API-Key: KEY`"},
}


def about(photos: int) -> str:
    """The description of the API; photos: in one request."""
    codes = "\n".join(f"| `{code}` | {status} | {meaning} |" for code, (status, meaning) in sorted(CODES.items()))
    return _ABOUT.format(photos=photos, codes=codes)


def operation_id(route: APIRoute) -> str:
    """The name that code generators give the method: that of the function, which is unique."""
    return route.name


def describe(app: FastAPI, settings: ServeSettings) -> None:
    """Complete the schema of `app`, which answers with these settings."""
    derived = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(derived(), settings)
        return derived()

    setattr(app, "openapi", openapi)  # noqa: B010


def _complete(schema: dict[str, Any], settings: ServeSettings) -> None:
    keys: list[dict[str, list[str]]] = [{name: []} for name in _KEYS]
    # An empty requirement says that the others may be left out.
    schema["security"] = keys if settings.keys_file else [{}, *keys]
    schema["paths"] |= _operations(settings)
    for methods in schema["paths"].values():
        for operation in methods.values():
            # FastAPI's own error, which is never answered: it lists it where a route names no 422.
            if "HTTPValidationError" in repr(operation["responses"].get("422")):
                del operation["responses"]["422"]
    components = schema.setdefault("components", {})
    components["securitySchemes"] = _KEYS
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)


def _operations(settings: ServeSettings) -> dict[str, Any]:
    """What BentoML answers, and no route of ours."""
    paths = {
        "/livez": _probe("is_alive", "Whether the process answers at all."),
        "/healthz": _probe("is_healthy", "The same as /livez, by another name."),
        "/readyz": _probe("is_ready", "Whether the model is loaded, and the server not about to stop.", "stopping"),
    }
    if settings.metrics != "off":
        with_key = settings.metrics == "key" and settings.keys_file
        metrics = _probe("read_metrics", "Numbers for Prometheus.", *(("missing_key", "wrong_key") if with_key else ()))
        if with_key:
            del metrics["get"]["security"]  # the same as everywhere
        paths["/metrics"] = metrics
    return paths


def _probe(name: str, about: str, *codes: str) -> dict[str, Any]:
    text = {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    responses = {"200": text} | {str(status): one for status, one in problems(*codes).items()}
    summary = name.replace("_", " ").capitalize()
    operation = {"tags": ["operations"], "summary": summary, "description": about, "operationId": name}
    return {"get": operation | {"security": [], "responses": responses}}
