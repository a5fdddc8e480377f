"""The rules for each path: which application answers, within which limits, and what browsers may do with the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.budget import SHORT_BODY, Places
from serve.observe import UNMATCHED
from serve.problems import Refused
from serve.settings import ServeSettings

UI_PATH = "/ui"
BROWSER_PATH = "/browser"
NATIVE_PATHS = frozenset({"/classify", "/embed", "/search"})
BENTO_PAGE = "/schema.json"  # BentoML's clients read it for the list of methods
HEALTH_PATHS = frozenset({"/livez", "/healthz", "/readyz"})
_DOCS = "/static-offline-docs"  # Swagger UI's files
PAGE_PATHS = frozenset(
    {"/", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/favicon.ico", "/manifest.json"}
    | {f"{_DOCS}/{file}" for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")}
)
_EXPORT = re.compile(r"/v1/galleries/[^/]*/export\Z")

MAX_TRANSFERS = 64  # concurrent downloads of models and the browser page's files, counted apart from photos
MAX_EXPORTS = 4  # concurrent exports: each has a temporary file until its client has read it
MAX_PAGES = 256  # concurrent requests of pages; an open tab of the demo holds two

Headers = Sequence[tuple[bytes, bytes]]

COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), microphone=(), payment=(), usb=()"),
]

# For answers to programs: a browser that opens one runs nothing and loads nothing.
DATA = [*COMMON, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")]
PAGE = [
    *COMMON,
    (
        b"content-security-policy",
        # Gradio writes its configuration as a script into the page, styles into elements, and compiles functions.
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        b"worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
]
"""For pages: everything comes from this server, and other sites may not frame them."""

BROWSER = [
    *COMMON,
    (b"cache-control", b"no-cache"),  # a browser revalidates each time; the ETag saves the transfer
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    ),
]
"""For the page that runs models in the browser: WebAssembly, modules of this server, no script in the page itself."""

# The headers that pages of the origins in LEAP_ZOO_SERVE_CORS may read.
READ = ("X-Request-ID", "Retry-After", "ETag", "Content-Range", "Accept-Ranges", "WWW-Authenticate")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules for the requests to one kind of path."""

    app: ASGIApp
    body: int = SHORT_BODY
    places: Places | None = None
    seconds: float | None = None  # until the answer begins
    whole: bool = True  # the answer is built before it is sent, so that its place is free while the client reads it
    keys: bool = False
    page: bool = False  # for a browser, which sends the key as a password
    shared: bool = False  # pages of the origins in LEAP_ZOO_SERVE_CORS may call it
    headers: Headers = field(default_factory=lambda: DATA)
    route: str | None = None  # for metrics and log; None: the route that the router found, or `unmatched`
    quiet: bool = False  # not logged: probes


class Table:
    """The rules for all paths. `places` are those of the API and the native routes."""

    def __init__(self, bento: ASGIApp, site: ASGIApp, health: ASGIApp, settings: ServeSettings) -> None:
        self.places = Places(settings.concurrency)
        pages, transfers = Places(MAX_PAGES, makes_room=True), Places(MAX_TRANSFERS, makes_room=True)
        exports = Places(MAX_EXPORTS, makes_room=True, keeps_working=True)
        work: dict[str, Any] = {"body": settings.max_body_bytes, "places": self.places, "keys": True, "shared": True}
        read: dict[str, Any] = {"app": site, "whole": False, "shared": True}
        upload: dict[str, Any] = {"body": settings.max_body_bytes, "whole": False, "keys": True, "page": True}
        ui = Rules(app=site, places=pages, headers=PAGE, route=UI_PATH, **upload)
        browser = Rules(places=transfers, headers=BROWSER, route=BROWSER_PATH, **read)
        self._nothing = Rules(app=_nothing_here, route=UNMATCHED)
        self._export = Rules(places=exports, seconds=settings.slow_timeout, keys=True, **read)
        self._below = {
            "/v1/heads": Rules(app=site, seconds=settings.slow_timeout, **work),  # fitting one embeds many photos
            "/v1/": Rules(app=site, seconds=settings.timeout, **work),
            "/zoo/": Rules(places=transfers, keys=True, **read),
            f"{BROWSER_PATH}/": browser,
        }
        self._exact = {path: Rules(app=site, places=pages, headers=PAGE, route=path) for path in PAGE_PATHS}
        self._exact |= {BENTO_PAGE: Rules(app=bento, places=pages, route=BENTO_PAGE), BROWSER_PATH: browser}
        self._exact |= {path: Rules(app=bento, seconds=settings.timeout, route=path, **work) for path in NATIVE_PATHS}
        self._exact |= {path: Rules(app=health, route=path, quiet=True) for path in HEALTH_PATHS}
        if settings.ui == "on":
            self._exact[UI_PATH] = self._below[f"{UI_PATH}/"] = ui
        if settings.metrics != "off":
            wanted = settings.metrics == "key"
            self._exact["/metrics"] = Rules(app=bento, keys=wanted, route="/metrics", quiet=True, places=pages)

    def of(self, path: str) -> Rules:
        """The rules for a path. An unknown one must not reach BentoML: its metrics are labeled with raw paths, so a
        scanner would create a new time series with every guess.
        """
        if path in self._exact:
            return self._exact[path]
        if _EXPORT.match(path):
            return self._export
        return next((rules for below, rules in self._below.items() if path.startswith(below)), self._nothing)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise Refused("unknown_path", "Nothing is served at this path. GET / lists what is.")
