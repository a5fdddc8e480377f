"""A service that answers what a test tells it to: the odd ones that no service of ours would give."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec


@dataclass
class Answer:
    """An answer; or `act`, which has the handler to itself."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    act: Callable[[BaseHTTPRequestHandler], None] | None = None


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class StandIn:
    """`answers` are given one after the other, the last one again and again; `asked` is what came."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [Answer()]
        self.asked: list[Asked] = []
        self.url = ""
        self._lock = threading.Lock()

    def says(self, *answers: Answer) -> None:
        """From now on."""
        self.answers, self.asked = list(answers), []

    def next(self, asked: Asked) -> Answer:
        """The answer to that request."""
        with self._lock:
            self.asked.append(asked)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def said(body: Any, status: int = 200, **headers: str) -> Answer:
    """A JSON answer."""
    return Answer(msgspec.json.encode(body), status, {name.replace("_", "-"): value for name, value in headers.items()})


def refused(status: int, code: str, detail: str = "So it is.", index: int | None = None, **headers: str) -> Answer:
    """A problem."""
    return said({"code": code, "detail": detail, "index": index}, status, **headers)


@contextlib.contextmanager
def running() -> Iterator[StandIn]:
    """A stand-in that listens on the loopback."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = stand_in.next(Asked(self.command, self.path, headers, body))
            with contextlib.suppress(OSError):  # the client may have left
                if answer.act is not None:
                    answer.act(self)
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that left in the middle
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
