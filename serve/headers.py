"""What a browser is told about every answer, and what another site's page may do here."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.limits import refuse
from serve.problems import Refused

Headers = Sequence[tuple[bytes, bytes]]

COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), microphone=(), payment=(), usb=()"),
]

DATA = [*COMMON, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")]
"""For answers to programs: a browser that opens one runs and loads nothing."""

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
"""For pages: everything comes from this server, and no other site may frame them."""

BROWSER = [
    *COMMON,
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    ),
]
"""For the page that runs models in the browser: WebAssembly, modules of this server, no script in the page itself."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_SAFE = ("GET", "HEAD", "OPTIONS")
_SENT = ("Authorization", "X-API-Key", "X-Request-ID", "Content-Type", "Range", "If-Range", "If-None-Match")
_READ = ("X-Request-ID", "Retry-After", "ETag", "Content-Range", "Accept-Ranges", "WWW-Authenticate")


class OwnOrigin:
    """Refuses what another site's page would change here through a visitor's browser.

    CORS only keeps such a page from reading answers; a form it may post anywhere, also to a server that is reachable
    from the visitor's machine alone.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self.app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or scope["method"] in _SAFE or self._is_ours(origin.decode("latin-1"), headers):
            await self.app(scope, receive, send)
            return
        detail = "Pages of other sites may not call this server. Whoever runs it can allow one: LEAP_ZOO_SERVE_CORS."
        await refuse(Refused(403, "foreign_origin", detail), scope, receive, send)

    def _is_ours(self, origin: str, headers: dict[bytes, bytes]) -> bool:
        host = headers.get(b"host", b"").decode("latin-1")
        return "*" in self._allowed or origin in self._allowed or origin.partition("://")[2] == host != ""


def across_origins(app: ASGIApp, allowed: Sequence[str]) -> ASGIApp:
    """`app` for its own origin and the `allowed` ones; none: no CORS header is ever sent."""
    guarded = OwnOrigin(app, allowed)
    if not allowed:
        return guarded
    return CORSMiddleware(
        guarded,
        allow_origins=list(allowed),
        allow_methods=_METHODS,
        allow_headers=_SENT,
        expose_headers=_READ,
        max_age=600,
    )
