"""The outermost layer: which application answers a path, behind which limits, and that no other path reaches one."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from serve import headers, limits
from serve.headers import across_origins
from serve.keys import KeyGate, Keys
from serve.limits import BodyLimit, InFlight, Slots, TimeLimit
from serve.metrics import UNMATCHED, Metrics
from serve.observed import Observed
from serve.problems import Refused
from serve.settings import ServeSettings
from serve.streams import EndingStreams
from serve.supervisor import follow

UI_PATH = "/ui"
BROWSER_PATH = "/browser"
NATIVE_PATHS = frozenset({"/classify", "/embed", "/models"})
HEALTH_PATHS = frozenset({"/livez", "/healthz", "/readyz"})
PAGE_PATHS = frozenset({"/", "/docs", "/openapi.json", "/schema.json", "/favicon.ico", "/manifest.json"})

_SLOW = re.compile(r"/v1/(heads|gallery/[^/]*/export\Z)")
"""Where answers may take longer: fitting embeds many photos, and an export is copied before it is sent."""

READ_ONLY_BODY = 1024  # bytes; what only reads has none, but some clients send an empty JSON object
MAX_PULLS = 64  # downloads of models, or of the browser page's files, at once: not in the places of photos


class Front:
    """Sends each path to the site or through BentoML, and answers everything else itself.

    - /v1 and /zoo go straight to the site: BentoML's layers cost more than the model, and have no limit we want.
    - The short native routes, health and metrics go through BentoML. Its labels are raw paths, so a path that nobody
      serves must not get there: a scanner would make a new time series with every guess.
    - Pages skip BentoML, whose time-out and labels do not suit Gradio's long streams and per-file paths.
    """

    def __init__(
        self, bento: ASGIApp, site: ASGIApp, settings: ServeSettings, metrics: Metrics, *, supervised: bool = False
    ) -> None:
        """supervised: the parent process restarts this one, which must not outlive it."""
        self._bento = bento
        self._supervised = supervised
        self.streams = EndingStreams(site)
        self._metrics = metrics
        keys = Keys(settings.keys_file) if settings.keys_file else None
        slots = Slots(settings.concurrency)

        def limited(app: ASGIApp) -> ASGIApp:
            inside = BodyLimit(InFlight(app, slots), settings.max_body_bytes)
            asked = KeyGate(InFlight(inside, slots, before_body=True), keys)
            return across_origins(asked, settings.cors)

        self._api = self._observed(limited(TimeLimit(site, settings.timeout)))
        self._slow = self._observed(limited(TimeLimit(site, settings.slow_timeout)))
        self._native = {path: self._observed(limited(bento), route=path) for path in NATIVE_PATHS}
        pulls = InFlight(BodyLimit(site, READ_ONLY_BODY), Slots(MAX_PULLS))
        self._zoo = self._observed(across_origins(KeyGate(pulls, keys), settings.cors))
        page = InFlight(BodyLimit(site, READ_ONLY_BODY), Slots(MAX_PULLS))
        self._browser = self._observed(page, headers.BROWSER, route=BROWSER_PATH)
        self._ui = self._observed(
            KeyGate(BodyLimit(self.streams, settings.max_body_bytes), keys, page=True), headers.PAGE, route=UI_PATH
        )
        self._pages = {
            path: self._observed(BodyLimit(site, READ_ONLY_BODY), headers.PAGE, route=path) for path in PAGE_PATHS
        }
        health = BodyLimit(self._unless_stopping, READ_ONLY_BODY)
        self._probes = {path: self._observed(health, route=path, quiet=True) for path in HEALTH_PATHS}
        if settings.metrics != "off":
            read = KeyGate(BodyLimit(bento, READ_ONLY_BODY), keys if settings.metrics == "key" else None)
            self._probes["/metrics"] = self._observed(read, route="/metrics", quiet=True)
        self._nothing = self._observed(_nothing_here, route=UNMATCHED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "http":
            await self._for(scope["path"])(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            self.streams.listen_for_stop()
            if self._supervised:
                follow()
            await self._bento(scope, receive, send)

    def _for(self, path: str) -> ASGIApp:
        if path.startswith("/v1/"):
            return self._slow if _SLOW.match(path) else self._api
        if path.startswith("/zoo/"):
            return self._zoo
        if path == UI_PATH or path.startswith(UI_PATH + "/"):
            return self._ui
        if path == BROWSER_PATH or path.startswith(BROWSER_PATH + "/"):
            return self._browser
        return self._native.get(path) or self._pages.get(path) or self._probes.get(path) or self._nothing

    def _observed(
        self, app: ASGIApp, dress: headers.Headers = headers.DATA, *, route: str | None = None, quiet: bool = False
    ) -> Observed:
        closing = self._is_stopping
        return Observed(app, self._metrics, dress, route=route, quiet=quiet, closing=closing)

    def _is_stopping(self) -> bool:
        return self.streams.stopping

    async def _unless_stopping(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Health, by BentoML's word; a server that is about to end is not ready, but alive."""
        if self.streams.stopping and scope["path"] == "/readyz":
            refused = Refused(503, "stopping", "The server has been told to stop.", {"retry-after": "5"})
            await refused.response()(scope, receive, send)
        else:
            await self._bento(scope, receive, send)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    refused = Refused(404, "unknown_path", "Nothing is served at this path. GET / lists what is.")
    await limits.refuse(refused, scope, receive, send)
