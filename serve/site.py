"""The FastAPI application behind every path but health and metrics: the API, the start page and the Gradio page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from serve import demo
from serve.app import make_app
from serve.browser import routes as browser
from serve.browser.runtime import FOLDER
from serve.engine import Engine
from serve.front import UI_PATH
from serve.settings import ServeSettings
from serve.stores import Stores

_START_PAGE = Template(Path(__file__).with_name("index.html").read_text(encoding="utf-8"))
_ICON = Path(__file__).with_name("icon.svg").read_bytes()


def build_site(engine: Engine, stores: Stores, settings: ServeSettings) -> FastAPI:
    """The application over `engine` and `stores`."""
    site = make_app(engine, stores, settings)
    model = {
        "model": escape(engine.models.default.card.id),
        "description": escape(engine.models.default.card.description.rstrip(".")),
        "precision": escape(engine.models.default.artifact.precision),
    }
    manifest = {
        "name": "LEAP Zoo",
        "short_name": "LEAP Zoo",
        "start_url": UI_PATH + "/",
        "display": "standalone",
        "icons": [{"src": "/favicon.ico", "type": "image/svg+xml", "sizes": "any"}],
    }

    @site.get("/", include_in_schema=False)
    async def start_page(request: Request) -> Response:
        server = escape(str(request.base_url).rstrip("/"))
        return HTMLResponse(_START_PAGE.substitute(model, ui=UI_PATH, server=server))

    @site.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    @site.get("/manifest.json", include_in_schema=False)
    async def web_manifest() -> Response:
        return JSONResponse(manifest, media_type="application/manifest+json")

    site.include_router(browser.router(settings.browser_runtime or FOLDER))
    demo.mount_page(site, engine, site.state.shelf)
    return site
