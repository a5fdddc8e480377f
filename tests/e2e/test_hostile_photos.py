"""A running server against hostile photos and requests: every one is answered, none with a 5xx, and it stays up."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import hostile_photos
import httpx
import psutil
import pytest
from hostile_photos import PHOTOS
from hostile_requests import REQUESTS, WIRE, photo

from serve.settings import PHOTO

ONE_PHOTO = 3 * PHOTO.pixels  # bytes of the largest photo that is decoded: not one is kept


@pytest.fixture(scope="module")
def target(bundled_server) -> Target:
    """The server with the bundled model."""
    return Target(bundled_server)


class Target:
    """The server, a client, and what the worker was before anything hostile came."""

    def __init__(self, server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.url, timeout=60)
        self.ordinary(100)
        self.worker = max(psutil.Process(server.process.pid).children(recursive=True), key=_resident)
        self.most = _resident(self.worker) + ONE_PHOTO

    def ordinary(self, times: int) -> None:
        """Ordinary photos, several at once, alone and many to a request, all answered.

        ONNX Runtime keeps the memory of the largest batch that it has run.
        """
        form = [("image", photo())] * 32
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: self.post("/v1/classify", photo()).status_code, range(times)))
        answers += [self.http.post("/v1/embed", files=form).status_code for _ in range(times // 10)]
        assert set(answers) == {200}

    def post(self, path: str, body: bytes, kind: str = "image/jpeg") -> httpx.Response:
        """One photo as the body."""
        return self.http.post(path, content=body, headers={"content-type": kind})

    def assert_unharmed(self) -> None:
        """The same worker still answers."""
        assert self.worker.is_running()
        assert self.post("/v1/classify", photo()).status_code == 200


def _resident(process: psutil.Process) -> int:
    return process.memory_info().rss


def check(answer: httpx.Response) -> None:
    """A refusal is a problem with a code, and says nothing of the server's inside."""
    assert answer.status_code < 500, answer.text
    kinds = ["text/plain; charset=utf-8", *(["application/json"] if answer.url.path.startswith("/ui/") else [])]
    if answer.status_code >= 400 and answer.headers["content-type"] not in kinds:
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        body = answer.json()
        assert body["status"] == answer.status_code
        assert body["code"]
    for secret in ("Traceback", "site-packages", "/leap_zoo/", "/serve/", "root:"):
        assert secret not in answer.text


def test_corpus__is_large_enough() -> None:
    assert len(hostile_photos.REFUSED) + len(WIRE) >= 40
    assert len(REQUESTS) >= 40


@pytest.mark.parametrize("name", PHOTOS)
def test_photo__gets_the_answer_it_deserves(target: Target, name: str) -> None:
    make, status = PHOTOS[name]
    body = make()
    answers = [target.post("/v1/embed", body), target.http.post("/v1/classify", files={"image": ("x.jpg", body)})]
    for answer in answers:
        check(answer)
        assert answer.status_code == status, answer.text
    target.assert_unharmed()


@pytest.mark.parametrize("name", REQUESTS)
def test_request__is_answered_without_a_failure(target: Target, name: str) -> None:
    answer = _send(target.http, name)
    check(answer)
    assert answer.status_code in REQUESTS[name].statuses, answer.text[:500]
    target.assert_unharmed()


@pytest.mark.parametrize("name", WIRE)
def test_wire__is_answered_or_closed(target: Target, name: str) -> None:
    answer = _on_the_wire(target.server.port, name)
    assert not answer or (answer.startswith(b"HTTP/1.1 ") and answer[9:10] in b"24"), answer[:300]
    target.assert_unharmed()


def test_body__byte_by_byte_does_not_hold_the_others_up(target: Target) -> None:
    head = b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", target.server.port), timeout=60))
            for _ in range(100)
        ]
        for connection in slow:
            connection.sendall(head)
        for _ in range(5):
            for connection in slow:
                connection.sendall(b"\xff")
            assert target.post("/v1/classify", photo()).status_code == 200  # while the slow ones are not finished


def test_corpus__all_at_once_and_again_leaves_no_trace(target: Target) -> None:
    """Memory is measured against the same server before anything hostile had come; it may go back a little later."""
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda make: target.post("/v1/embed", make[0]()).status_code, PHOTOS.values()))
        statuses += pool.map(lambda name: _send(target.http, name).status_code, REQUESTS)
        list(pool.map(lambda name: _on_the_wire(target.server.port, name), WIRE))
    assert {status for status in statuses if status >= 500} <= {503}  # more at once than it takes is no failure
    deadline = time.monotonic() + 40
    while (held := _resident(target.worker)) > target.most and time.monotonic() < deadline:
        time.sleep(1)
        target.ordinary(20)
    said = target.server.log.read_text()
    assert held <= target.most, f"{held >> 20} MiB, at most {target.most >> 20}"
    assert "Traceback" not in said
    target.assert_unharmed()


def _send(client: httpx.Client, name: str) -> httpx.Response:
    sent = REQUESTS[name]
    headers = {"content-type": sent.kind, **sent.headers} if sent.kind else sent.headers
    return client.request(sent.method, sent.path, content=sent.body(), headers=headers)


def _on_the_wire(port: int, name: str) -> bytes:
    """What comes back within a few seconds; nothing when the connection was closed instead."""
    make, leave = WIRE[name]
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(make())
        if leave:
            return answer
        connection.settimeout(2)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while received := connection.recv(65536):
                answer += received
    return answer
