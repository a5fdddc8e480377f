"""The FastAPI application for every path except health and metrics: the API, its schema and the pages; all errors have
one format.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from operator import attrgetter
from pathlib import Path
from string import Template
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from leap_zoo import errors
from serve.api import galleries, heads, predict, zoo
from serve.api.zoo import Shelf, zoos_to_hand_on
from serve.engine import Engine
from serve.problems import CODES, MEDIA_TYPE, Problem, Refused, internal_error, invalid_options, refusal_of
from serve.rules import BROWSER_PATH, UI_PATH
from serve.settings import ServeSettings
from serve.stores import Stores

_HERE = Path(__file__).parent
_START_PAGE = Template((_HERE / "index.html").read_text(encoding="utf-8"))
_ABOUT = Template((_HERE / "about.md").read_text(encoding="utf-8"))
_ICON = (_HERE / "icon.svg").read_bytes()
_MANIFEST = json.loads((_HERE / "manifest.json").read_text(encoding="utf-8"))

API_VERSION = "1.1.0"  # version of the routes under /v1: the second number grows with each addition

_PROBLEM: dict[str, Any] = {
    "description": "A problem; see its `code`",
    "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
}


def make_app(engine: Engine, stores: Stores, settings: ServeSettings) -> FastAPI:
    """The API for `engine` and for what clients store in `stores`, which it closes at its end."""
    codes = "\n".join(f"| `{code}` | {status} | {meaning} |" for code, (status, meaning) in sorted(CODES.items()))
    # For the schema only: the gate has checked the key before.
    keys = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name="X-API-Key", auto_error=False))]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(stores.close)
        if settings.ui == "on":
            from serve.demo.uploads import remove_private_folder

            await asyncio.to_thread(remove_private_folder)

    app: FastAPI = FastAPIOffline(
        title="LEAP Zoo",
        version=API_VERSION,
        summary="Small vision transformers over HTTP",
        description=_ABOUT.substitute(photos=settings.max_photos, codes=codes),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        responses={"4XX": _PROBLEM, "5XX": _PROBLEM},
        dependencies=keys if settings.keys_file else [],
        generate_unique_id_function=attrgetter("name"),  # what code generators call the method
        docs_url="/docs",  # Swagger UI, whose scripts come from this server
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.stores = stores  # a temporary data folder lives as long as they do
    app.state.shelf = Shelf(zoos_to_hand_on(settings), first=engine.models.default.card.id)
    app.include_router(predict.router(engine, stores.heads, settings.max_photos))
    app.router.routes.insert(0, app.router.routes.pop())  # the busiest routes are found first
    app.include_router(predict.model_router(engine, settings.max_photos))
    app.include_router(galleries.router(engine, stores, settings.max_photos))
    app.include_router(heads.router(engine, stores))
    app.include_router(zoo.router(app.state.shelf))
    answer_errors(app)
    return app


def build_site(engine: Engine, stores: Stores, settings: ServeSettings) -> FastAPI:
    """The API and the pages: the start page, the demo, and the page that runs models in the browser."""
    site = make_app(engine, stores, settings)
    default = engine.models.default
    shown = {
        "model": escape(default.card.id),
        "description": escape(default.card.description.rstrip(".")),
        "precision": escape(default.artifact.precision),
        "page": (UI_PATH if settings.ui == "on" else BROWSER_PATH).lstrip("/"),
    }

    @site.get("/", include_in_schema=False)
    async def start_page(request: Request) -> Response:
        server = escape(str(request.base_url).rstrip("/"))
        return HTMLResponse(_START_PAGE.substitute(shown, server=server))

    @site.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    @site.get("/manifest.json", include_in_schema=False)
    async def web_manifest() -> Response:
        start = {"start_url": f"{shown['page']}/"}
        return JSONResponse(_MANIFEST | start, media_type="application/manifest+json")

    @site.get(BROWSER_PATH, include_in_schema=False)
    async def browser_page(request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{BROWSER_PATH.lstrip('/')}/{query}")  # relative: a proxy's prefix stays

    site.mount(f"{BROWSER_PATH}/runtime", PageFiles(settings.browser_runtime or _HERE / "browser" / "runtime"))
    site.mount(BROWSER_PATH, PageFiles(_HERE / "browser" / "page", _HERE / "demo" / "samples"))
    site.state.end_streams = lambda: None
    if settings.ui == "on":
        from serve.demo.page import mount_page  # Gradio takes seconds to import

        site.state.end_streams = mount_page(site, engine, site.state.shelf)
    return site


class PageFiles(StaticFiles):
    """The files in folders, which may be missing. Sent whole: Starlette refuses some ranges with plain text."""

    def __init__(self, *folders: Path) -> None:
        super().__init__(html=True)
        self.all_directories = list(folders)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def answer_errors(app: Starlette) -> None:
    """Answer every error of `app` with a Problem. No answer contains a path or a stack trace."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            return invalid_options(error.errors(), _options(request)).response(request.url.path)
        return refusal_of(error).response(request.url.path)

    async def fail(_: Request, error: Exception) -> Response:
        # Starlette re-raises the error after this answer, so uvicorn logs it once, with its traceback.
        return internal_error().response()

    for kind in (Refused, errors.LeapZooError, ClientDisconnect, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, fail)


def _options(request: Request) -> list[str]:
    """The names of the query options of the route of `request`, which are a model's fields."""
    models = [one.field_info.annotation for one in request.scope["route"].dependant.query_params]
    return [name for model in models for name in model.model_fields]
