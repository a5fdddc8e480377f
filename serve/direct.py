"""The two routes that are asked the most, called without the router and the validation of FastAPI.

FastAPI's part of such a request costs more than all of ours. It still has the routes, for the schema, and answers
whatever is unusual: an option that is wrong, another method.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from leap_zoo.errors import LeapZooError
from serve.problems import Refused, refusal_of

_LONGEST_QUERY = 256  # bytes; queries are kept, and a client must not fill the memory with them


Endpoint = Callable[[Request, Any], Awaitable[Response]]


class DirectRoutes:
    """Answers the POST routes of `router` that are in `options` itself, and leaves everything else to `app`, which has
    them too.

    options: of each path the model of its query, which its function takes after the request. Errors that are none of
    ours are for the layer around this.
    """

    def __init__(self, app: ASGIApp, router: APIRouter, options: Mapping[str, type[BaseModel]]) -> None:
        self.app = app
        self._routes = {
            route.path: (route, options[route.path])
            for route in router.routes
            if isinstance(route, APIRoute) and route.path in options
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        found = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        options = None if found is None else _options(found[1], scope["query_string"])
        if found is None or options is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = found[0]  # its path is the label of the metrics
        endpoint: Endpoint = found[0].endpoint
        try:
            response = await endpoint(Request(scope, receive), options)
        except (Refused, LeapZooError, ClientDisconnect) as error:
            response = refusal_of(error).response()
        await response(scope, receive, send)


def _options(kind: type[BaseModel], query: bytes) -> BaseModel | None:
    """The options in a query; None where FastAPI has to say what is wrong with them."""
    return _parsed(kind, query) if len(query) <= _LONGEST_QUERY else None


@lru_cache(maxsize=256)
def _parsed(kind: type[BaseModel], query: bytes) -> BaseModel | None:
    try:
        return kind.model_validate(dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)))
    except ValidationError:
        return None
