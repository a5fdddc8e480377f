"""The paths of version 0.1, which work for one more version, with a header that says so."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class OldPaths:
    """Maps a request for an old path to the new one and passes it to `app`.

    /v1/gallery[/...] becomes /v1/galleries[/...]; POST /v1/gallery/NAME, which creates a missing gallery, becomes
    POST /v1/galleries/NAME/items?create=true; /v1/search?gallery=NAME becomes /v1/galleries/NAME/search.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        path = _successor(scope) if scope["type"] == "http" else None
        if path is None:
            await self.app(scope, receive, send)
            return
        path = scope.get("root_path", "") + path
        scope["path"], scope["raw_path"] = path, quote(path).encode()
        told = [(b"deprecation", b"true"), (b"link", f'<{quote(path)}>; rel="successor-version"'.encode())]

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *told]}
            await send(message)

        await self.app(scope, receive, send_told)


def _successor(scope: Scope) -> str | None:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    if path == "/v1/search":
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        name = next((value for option, value in query if option == "gallery"), None)
        if not name or "/" in name:
            return None
        scope["query_string"] = urlencode([(option, value) for option, value in query if option != "gallery"]).encode()
        return f"/v1/galleries/{name}/search"
    if path != "/v1/gallery" and not path.startswith("/v1/gallery/"):
        return None
    new = "/v1/galleries" + path.removeprefix("/v1/gallery")
    if scope["method"] == "POST" and new.count("/") == 3:
        scope["query_string"] = b"create=true" + (b"&" + scope["query_string"] if scope["query_string"] else b"")
        return new + "/items"
    return new
