"""The clients that measure the service, against a small server; and that the page has the measured figures."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("psutil", reason="needs the extra: pip install leap-zoo[serve]")

from tools import load_attacks
from tools.http_load import Connection, closed_loop, open_loop, photo_request

PHOTO = b"\xff\xd8 not really"


class Handler(BaseHTTPRequestHandler):
    """Answers 200 with the length of the body, every tenth request 503."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        Handler.asked += 1
        answer = b"%d %s" % (len(body), self.headers["content-type"].encode())
        self.send_response(503 if Handler.asked % 10 == 0 else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    Handler.asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_closed_loop__counts_the_answers_within_its_time(port: int) -> None:
    load = closed_loop(port, [photo_request("/v1/embed", PHOTO)], 4, 0.5)
    assert len(load.latencies) == sum(load.statuses.values()) == pytest.approx(load.per_second * 0.5)
    assert Handler.asked - 4 <= len(load.latencies) < Handler.asked  # the last of each client came too late
    assert load.statuses[503] == pytest.approx(Handler.asked / 10, abs=4)


def test_connection__asks_once(port: int) -> None:
    assert [Connection(port).ask(photo_request("/", PHOTO)) for _ in range(10)] == [200] * 9 + [503]


def test_open_loop__asks_at_the_rate(port: int) -> None:
    load = open_loop(port, [photo_request("/embed", PHOTO, multipart=True)], 100, 2.0, connections=4)
    assert sum(load.statuses.values()) == len(load.latencies) == Handler.asked
    assert 150 < Handler.asked < 250  # five standard deviations of the Poisson process are 71
    assert min(load.latencies) > 0


def test_load__fails_when_the_server_closes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.close()

        threading.Thread(target=close, daemon=True).start()
        with pytest.raises(ConnectionError, match="closed"):
            closed_loop(listener.getsockname()[1], [photo_request("/", PHOTO)], 1, 5)


def test_photo_request__is_a_form_that_holds_the_photo() -> None:
    head, _, body = photo_request("/embed", PHOTO, multipart=True).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert PHOTO in body


@pytest.fixture
def attack() -> Iterator[Callable[..., None]]:
    """Starts an attack in a process of its own, as the tool does; it ends with the test."""
    started = []

    def start(function: Callable[[int, bytes], None], port: int) -> None:
        started.append(multiprocessing.get_context("spawn").Process(target=function, args=(port, PHOTO), daemon=True))
        started[-1].start()

    yield start
    for one in started:
        one.kill()
        one.join()


@pytest.mark.parametrize("kind", [load_attacks.unknown_keys, load_attacks.many_pixels, load_attacks.other_models])
def test_attack__asks_on_also_after_refusals(port: int, attack: Callable[..., None], kind: Callable[..., None]) -> None:
    attack(kind, port)
    while Handler.asked < 30:  # three of them were refused
        time.sleep(0.01)


@pytest.mark.parametrize("kind", [load_attacks.never_read, load_attacks.never_end])
def test_attack__comes_again_when_it_is_cut_off(attack: Callable[..., None], kind: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4) as listener:
        attack(kind, listener.getsockname()[1])
        for _ in range(70):  # there are at most 64 of them
            connection, _ = listener.accept()
            connection.close()
