"""The gate that every request passes: for the API, native routes, zoo, pages and health.

In this order: the route's rules, the request id, the host, the origin, the key, a free place, the body within the
budget, the answer within its time, and the answer within the budget, or a refusal with patience. Metrics and the log
record every request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.budget import SHORT_BODY, SLICE, Budget, ClientGone, Patience, Share, linger
from serve.keys import KEY_NAME, Keys, key_refusal, presented_key
from serve.observe import LEFT, UNMATCHED, Gathering, Metrics, log_served, make_request_id, request_id
from serve.problems import Refused
from serve.rules import READ, Headers, Rules, Table
from serve.settings import ServeSettings
from serve.stopping import Stopping, follow_supervisor

# The most bytes of an answer that is built before it is sent; files and exports are read while they are sent.
MAX_ANSWER = 8 * 2**20
LARGE_BODY = 256 * 1024  # bytes: for larger bodies, watch whether the client disconnects before its answer

# uvloop's error when a client pipelined requests and disconnected: not a failure of this service.
_CLOSED = "the handler is closed"


class Gate:
    """The outermost ASGI application. `site` answers the API and the pages; `bento` native routes, health, metrics."""

    def __init__(
        self,
        bento: ASGIApp,
        site: ASGIApp,
        settings: ServeSettings,
        metrics: Metrics,
        *,
        end_streams: Callable[[], object] = lambda: None,
        supervised: bool = False,
    ) -> None:
        """end_streams: called when the process is told to stop, to end answers that last as long as a page is open.

        supervised: the parent process restarts this one, which must not outlive it.
        """
        self._bento, self._settings, self._metrics, self._supervised = bento, settings, metrics, supervised
        self.patience = Patience()
        self._end_streams = end_streams
        self.stopping = Stopping(settings.drain, self._end_waits)
        self.budget = Budget(max(settings.memory_mb * 2**20, 2 * settings.max_body_bytes))
        self.table = Table(bento, site, self._health, settings)
        self._keys = Keys(settings.keys_file) if settings.keys_file else None
        self._inner: ASGIApp = self._checked
        if settings.cors:
            self._inner = CORSMiddleware(
                self._checked,
                allow_origins=list(settings.cors),
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=READ,
                max_age=600,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "http":
            await self._observed(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            self.stopping.listen()
            if self._supervised:
                follow_supervisor()
            await self._bento(scope, receive, send)

    def _placed(self, scope: Scope) -> str:
        """The path without the proxy's prefix.

        Works whether the proxy strips its prefix or not: afterward, the scope has the full path and the prefix (ASGI).
        """
        root, path = self._settings.root_path, str(scope["path"])
        if root:
            path = path.removeprefix(root) if path.startswith(root + "/") else path
            scope["root_path"], scope["path"] = root, root + path
        return path

    async def _observed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The outer layer: the request's id, headers for browsers, metrics, and a line in the log."""
        started = time.perf_counter()
        path = self._placed(scope)
        rules, given = self.table.of(path), dict(scope["headers"])
        share = Share(self.budget, send, given)
        scope["leap_zoo"] = rules, given, share  # past the CORS middleware
        identity = make_request_id(given.get(b"x-request-id"))
        token = request_id.set(identity)
        status, bytes_out = LEFT, 0

        async def dressed_send(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": self._dressed(message.get("headers", ()), rules, identity)}
            else:
                bytes_out += len(message.get("body", b""))
            try:
                await send(message)
            except RuntimeError as error:
                if _CLOSED not in str(error):
                    raise
                status = LEFT

        self._metrics.inside(1)
        try:
            inner = self._inner if rules.shared else self._checked
            await inner(scope, receive, dressed_send)
            await asyncio.sleep(0)  # the event loop writes the answer at the end of its turn: before what is below
        except ClientGone:
            status = LEFT
        except Exception:
            status = 500 if status == LEFT else status
            raise
        finally:
            share.free()
            self._metrics.inside(-1)
            seconds = time.perf_counter() - started
            route = str(rules.route or getattr(scope.get("route"), "path", UNMATCHED))
            self._metrics.served(route, scope["method"], status, seconds)
            if not rules.quiet:
                method = scope["method"] if scope["method"].isalpha() else "?"
                sizes = {"bytes_in": share.received, "bytes_out": bytes_out}
                log_served(method, route, status, ms=round(seconds * 1000, 3), key=scope.get(KEY_NAME), **sizes)
            request_id.reset(token)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the client, find a place, read the body, and answer."""
        rules, given, share = scope["leap_zoo"]
        try:
            self._check_sender(scope, rules, given)
            if rules.places is not None:
                rules.places.check()
            whole = await self._answered(rules, share, scope, receive, send)
        except Refused as refused:
            share.free()  # of an answer that did not fit: the refusal needs room
            whole = _refusal(refused, share, scope)
        if whole is not None:  # the body and everything else that the request held is free by now
            await self._send(whole, share, receive, send)

    def _check_sender(self, scope: Scope, rules: Rules, given: dict[bytes, bytes]) -> None:
        """Raises Refused for an unknown host, another site's page, a missing or unknown key, an encoded body."""
        if not rules.quiet:
            self._check_host(given.get(b"host", b"").decode("latin-1"))
        origin = given.get(b"origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_origin(origin.decode("latin-1"), given.get(b"host", b"").decode("latin-1"))
        if self._keys is not None and rules.keys:
            presented = presented_key(given, password=rules.page)
            name = self._keys.name_of(presented)
            if name is None:
                raise key_refusal(presented, page=rules.page)
            scope[KEY_NAME] = name
        coding = given.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        if coding not in ("", "identity"):
            raise Refused("unsupported_encoding", "Content-Encoding is not supported. Send the body without it.")

    def _check_host(self, host: str) -> None:
        name = (host.rpartition(":")[0] if re.search(r":\d*\Z", host) else host).strip("[]").lower().rstrip(".")
        known = self._settings.hosts
        if "*" in known or name in known:
            return
        if not known and (self._keys is not None or "." not in name or _is_address(name)):
            return
        detail = "This server does not answer for this host name. Its operator can allow it with LEAP_ZOO_SERVE_HOSTS."
        raise Refused("unknown_host", detail)

    def _check_origin(self, origin: str, host: str) -> None:
        allowed = self._settings.cors
        if "*" in allowed or origin in allowed or (host and origin.partition("://")[2] == host):
            return
        detail = "Pages of other sites may not call this server. Its operator can allow one with LEAP_ZOO_SERVE_CORS."
        raise Refused("foreign_origin", detail)

    async def _answered(
        self, rules: Rules, share: Share, scope: Scope, receive: Receive, send: Send
    ) -> tuple[Message, Message] | None:
        """The start and the body of the application's answer; None if the client left, or has the answer by now.

        A whole answer is built and leaves its place before it is sent. Any other is sent while it is built, and holds
        its place until the client has read it, unless it is an error. Raises Refused.
        """
        body = await share.read(receive, rules.body if scope["method"] == "POST" else SHORT_BODY)
        if body is None:
            return None
        start: Message = {}
        parts: list[bytes] = []
        size, begun = 0, False

        async def take(message: Message) -> None:
            nonlocal start, size, begun
            if message["type"] == "http.response.start":
                # An application that fails raises the error after it has answered 500.
                start, begun = message, message["status"] == 500 or (not rules.whole and message["status"] < 400)
            if begun:
                clock.reschedule(None)
                await share.write(message, send)
            elif message is not start:
                part = message.get("body", b"")
                size += len(part)
                if size <= MAX_ANSWER:
                    parts.append(part)

        is_head = rules.whole and scope["method"] == "HEAD"
        asked = {**scope, "method": "GET"} if is_head else scope
        clock = asyncio.timeout(rules.seconds)
        try:
            with contextlib.nullcontext() if rules.places is None else rules.places.one(share):
                async with clock:
                    answer = rules.app(asked, _replayed(body, receive), take)
                    if len(body) >= LARGE_BODY or not rules.whole:
                        answer = _while_connected(answer, receive, lambda: begun)
                    await answer
        except TimeoutError:
            if begun or not clock.expired():
                raise
            detail = f"No answer within {rules.seconds:g} seconds. Send fewer photos, or try again later."
            raise Refused("timed_out", detail) from None
        if is_head and "route" in asked:
            scope["route"] = asked["route"]
        share.free()
        if begun or not start:
            return None
        if size > MAX_ANSWER:
            detail = f"The answer would be larger than {MAX_ANSWER >> 20} MiB. Request less at once."
            raise Refused("answer_too_large", detail)
        written = b"" if is_head else b"".join(parts)
        self.budget.take(share, len(written))
        return start, {"type": "http.response.body", "body": written}

    async def _send(self, answer: tuple[Message, Message], share: Share, receive: Receive, send: Send) -> None:
        """Send a whole answer, in its turn if it is a refusal of many.

        A client that may still be sending its body receives the answer before the connection closes.
        """
        start, body = answer
        if start["status"] >= 400:
            await self.patience.wait(share.received // SLICE + (start["status"] < 500))
        await share.write({**body, "more_body": share.still_sent}, send, start=start)
        if share.still_sent:
            await linger(receive)
            await share.write({"type": "http.response.body", "body": b"", "more_body": False}, send)

    def _end_waits(self) -> None:
        self._end_streams()
        self.patience.end()
        Gathering.seconds = 0.0

    def _dressed(self, given: Headers, rules: Rules, identity: str) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in given}
        dressed = [*given, *((name, value) for name, value in rules.headers if name not in names)]
        dressed.append((b"x-request-id", identity.encode()))
        if self.stopping.now:
            dressed = [(name, value) for name, value in dressed if name != b"connection"]
            dressed.append((b"connection", b"close"))
        return dressed

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Health, from BentoML; a server that is shutting down is not ready, but alive."""
        if self.stopping.now and scope["path"].endswith("/readyz"):
            raise Refused("stopping", "The server is shutting down.")
        await self._bento(scope, receive, send)


def _refusal(refused: Refused, share: Share, scope: Scope) -> tuple[Message, Message]:
    """The answer. Its bytes are not counted in the budget: if that is full, the refusal must still be sent."""
    response = refused.response(scope["path"])
    if share.still_sent:
        response.headers["connection"] = "close"
    start = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    return start, {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else bytes(response.body)}


async def _while_connected(answer: Awaitable[None], receive: Receive, begun: Callable[[], bool]) -> None:
    """`answer`, unless the client disconnects before it has begun: then it is canceled, and its work stops."""
    working, left = asyncio.ensure_future(answer), asyncio.ensure_future(receive())
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done() and not begun():
            raise ClientGone
        await working
    finally:
        working.cancel()
        left.cancel()


@lru_cache(64)
def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body once and then waits for the client to disconnect."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
