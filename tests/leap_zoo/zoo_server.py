"""A zoo on a real local server, well-behaved (Range, If-Range, ETag) until a test says otherwise for a path."""

from __future__ import annotations

import contextlib
import hashlib
import random
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from export.zoo import publish
from leap_zoo.documents import read_card

TINY = "leap-tiny-test"
FILE = f"/{TINY}/model_int8.onnx"
SIZE = 300_000  # of that file in the big zoo

Behaviour = Callable[["Handler", bytes], None]


@dataclass
class ZooServer:
    """`behaviours`: what answers a path instead. `served`: bytes of body per path. `requests`: (path, Range).

    `callers`: the Authorization header with which each path was asked for.
    """

    folder: Path
    url: str
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    callers: dict[str, str | None] = field(default_factory=dict)

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers with which a path was asked for, in order."""
        return [asked for requested, asked in self.requests if requested == path]


class Handler(BaseHTTPRequestHandler):
    zoo: ZooServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.zoo.requests.append((self.path, self.headers["Range"]))
        self.zoo.callers[self.path] = self.headers["Authorization"]
        path = self.zoo.folder / self.path.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.zoo.behaviours.get(self.path, serve)(self, data)

    def head(self, status: int, **headers: object) -> None:
        """Status line and headers; `content_length=5` is `content-length: 5`."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        """Bytes of the body, counted."""
        self.wfile.write(data)
        self.zoo.served[self.path] = self.zoo.served.get(self.path, 0) + len(data)

    def log_message(self, *_: object) -> None:
        pass


def start_of(handler: Handler, data: bytes) -> int:
    """Where the answer begins: 0, or what a Range asks for of an unchanged file."""
    asked, known = handler.headers["Range"], handler.headers["If-Range"]
    return int(asked.removeprefix("bytes=").removesuffix("-")) if asked and known in (None, etag(data)) else 0


def serve(handler: Handler, data: bytes) -> None:
    """As a good static host does."""
    serve_until(handler, data, len(data))


def serve_until(handler: Handler, data: bytes, end: int) -> None:
    """Announce all, and stop before byte `end` of the file."""
    if not (handler.zoo.folder / handler.path.lstrip("/")).is_file():
        return handler.head(404, content_length=0)
    start = start_of(handler, data)
    headers: dict[str, object] = {"content_length": len(data) - start, "etag": etag(data)}
    if start:
        headers["content_range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    handler.head(206 if start else 200, **headers)
    for position in range(start, end, 65536):
        handler.body(data[position : min(end, position + 65536)])
    if end < len(data):
        handler.close_connection = True
    return None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that went away in the middle is what these tests are about."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(*_)


def etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'


@contextlib.contextmanager
def serving(folder: Path, context: ssl.SSLContext | None = None) -> Iterator[ZooServer]:
    """A server for the block."""
    handler = type("ZooHandler", (Handler,), {})
    with _Http(("127.0.0.1", 0), handler) as http:
        if context is not None:
            http.socket = context.wrap_socket(http.socket, server_side=True)
        scheme = "http" if context is None else "https"
        handler.zoo = ZooServer(folder, f"{scheme}://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield handler.zoo
        finally:
            http.shutdown()
            thread.join()


def make_big(zoo: Path, size: int = SIZE, seed: int = 0) -> None:
    """Publish the int8 file anew, as noise that nobody can load."""
    data = random.Random(seed).randbytes(size)
    (zoo / FILE[1:]).write_bytes(data)
    card = read_card(zoo / TINY / "card.json")
    artifacts = [
        msgspec.structs.replace(one, bytes=size, sha256=hashlib.sha256(data).hexdigest())
        if one.precision == "int8"
        else one
        for one in card.artifacts
    ]
    publish(zoo, msgspec.structs.replace(card, artifacts=artifacts, revision=f"big{seed}"))
