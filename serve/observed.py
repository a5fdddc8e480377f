"""Around every request: its id, the headers for browsers, the metrics, and one line in the log."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.headers import Headers
from serve.keys import KEY_NAME
from serve.logs import Served, log_served, make_request_id, request_id
from serve.metrics import UNMATCHED, Metrics

_CLOSED = "the handler is closed"
"""What uvloop says of an answer to a client that asked several times at once and left: no failure of ours."""

LEFT = 499  # as nginx has it: the client went away before an answer began


class Observed:
    """An application whose answers carry X-Request-ID and `headers`, and are counted and logged.

    route: the template for metrics and log; None: what the router found, or `unmatched`.
    quiet: no line in the log, for probes. closing: asked per answer; true adds `Connection: close`.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        headers: Headers,
        *,
        route: str | None = None,
        quiet: bool = False,
        closing: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._headers = headers
        self._route = route
        self._quiet = quiet
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        started = time.perf_counter()
        identity = make_request_id(dict(scope["headers"]).get(b"x-request-id"))
        token = request_id.set(identity)
        status, bytes_in, bytes_out = LEFT, 0, 0

        async def counted_receive() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def dressed_send(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
                message = message | {"headers": self._dress(message.get("headers", ()), identity)}
            else:
                bytes_out += len(message.get("body", b""))
            try:
                await send(message)
            except RuntimeError as error:
                if _CLOSED not in str(error):
                    raise
                status = LEFT

        try:
            with self._metrics.in_flight():
                await self.app(scope, counted_receive, dressed_send)
        except Exception:
            status = 500 if status == LEFT else status
            raise
        finally:
            seconds = time.perf_counter() - started
            route = self._route or getattr(scope.get("route"), "path", UNMATCHED)
            self._metrics.served(route, scope["method"], status, seconds)
            if not self._quiet:
                served = Served(
                    scope["method"] if scope["method"].isalpha() else "?",
                    route,
                    status,
                    round(seconds * 1000, 3),
                    bytes_in,
                    bytes_out,
                    scope.get(KEY_NAME),
                )
                log_served(served)
            request_id.reset(token)

    def _dress(self, given: Headers, identity: str) -> Headers:
        names = {name for name, _ in given}
        dressed = [*given, *((name, value) for name, value in self._headers if name not in names)]
        dressed.append((b"x-request-id", identity.encode()))
        if self._closing() and b"connection" not in names:
            dressed.append((b"connection", b"close"))
        return dressed
