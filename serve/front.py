"""The outermost layer: which of the two applications answers a path, and that no other path reaches either."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.limits import BodyLimit
from serve.problems import Refused
from serve.streams import EndingStreams

UI_PATH = "/ui"
API_PATHS = frozenset({"/classify", "/embed", "/models", "/openapi.json", "/livez", "/healthz", "/readyz", "/metrics"})
PAGE_PATHS = frozenset({"/", "/docs", "/schema.json", "/favicon.ico", "/manifest.json", UI_PATH})


class Front:
    """Sends API and health paths through BentoML, pages straight to the site, and answers everything else itself.

    - BentoML gives the API its metrics, access log, traces and time-out. Its labels are raw paths, so a path that
      nobody serves must not get there: a scanner would make a new time series with every guess.
    - The pages skip BentoML, whose time-out and labels do not suit Gradio's long streams and per-file paths.
    """

    def __init__(self, bento: ASGIApp, site: ASGIApp) -> None:
        self._bento = bento
        self._streams = EndingStreams(site)
        self._api = BodyLimit(bento)
        self._pages = BodyLimit(self._streams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            self._streams.listen_for_stop()
            await self._bento(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["path"] in API_PATHS:
            await self._api(scope, receive, send)
        elif scope["path"] in PAGE_PATHS or scope["path"].startswith((UI_PATH + "/", "/v1/")):
            await self._pages(scope, receive, send)
        else:
            await _unknown_path().response()(scope, receive, send)


def _unknown_path() -> Refused:
    return Refused(404, "unknown_path", "Nothing is served at this path. GET / lists what is.")
