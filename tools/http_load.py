"""Requests to a server in a closed or an open loop, over raw keep-alive sockets in one thread.

The client shares the cores with the server here, so it does as little as it can: no HTTP library, no JSON. Locust would
spend as much on a request as the server does, and wrk sends at no rate of its own and does not tell which are lost.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

SIDE = 224  # pixels
STALLED = 60.0  # seconds without any answer


@dataclass
class Load:
    """What came back. `latencies`: seconds per answered request, in the order of the answers, whatever its status."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def count(self, status: int, seconds: float) -> None:
        """Add an answer."""
        self.statuses[status] += 1
        self.latencies.append(seconds)

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds


def photo_request(path: str, photo: bytes, *, multipart: bool = False) -> bytes:
    """The bytes of a POST of one JPEG: as the body itself, or as the field `image` of a form."""
    kind = "image/jpeg"
    if multipart:
        kind = "multipart/form-data; boundary=-load-"
        head = 'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg'
        photo = b"---load-\r\n" + head.encode() + b"\r\n\r\n" + photo + b"\r\n---load---\r\n"
    return http_request("POST", path, photo, kind)


def http_request(method: str, path: str, body: bytes = b"", kind: str = "") -> bytes:
    """The bytes of a request; kind: the Content-Type of the body."""
    about = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n" if kind else ""
    return f"{method} {path} HTTP/1.1\r\nHost: load\r\n{about}\r\n".encode() + body


def small_jpeg(photo: str | os.PathLike[str]) -> bytes:
    """A photo as a JPEG of 224x224, so that decoding is a part of the work and not most of it."""
    buffer = io.BytesIO()
    with Image.open(photo) as opened:
        opened.convert("RGB").resize((SIDE, SIDE)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Each of `clients` sends its next request as soon as it has its answer, for `seconds`.

    A latency is from sending to the last byte. What is under way at the end is waited for, and not counted. Raises
    ConnectionError when the server closes, TimeoutError when it stalls.
    """
    load = Load(seconds=seconds)
    sent: dict[Connection, float] = {}
    numbers = _endless(requests)
    with _connections(port, clients) as (selector, connections):
        ends = time.perf_counter() + seconds
        for connection in connections:
            sent[connection] = time.perf_counter()
            connection.send(next(numbers))
        while sent:
            for connection, status in _answered(selector, STALLED):
                now = time.perf_counter()
                began = sent.pop(connection)
                if now < ends:
                    load.count(status, now - began)
                    sent[connection] = now
                    connection.send(next(numbers))
    return load


def open_loop(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, *, seed: int = 0, connections: int = 256
) -> Load:
    """Requests at random moments (a Poisson process of `rate` per second), whether earlier ones are answered or not.

    A latency is from the moment at which a request was due, so one that waits for a slow one before it, or for one of
    the `connections`, counts its wait. All are waited for. Raises as `closed_loop` does.
    """
    load = Load(seconds=seconds)
    clock = random.Random(seed)
    numbers = _endless(requests)
    with _connections(port, connections) as (selector, made):
        idle = deque(made)
        waiting: deque[float] = deque()
        due_of: dict[Connection, float] = {}
        started = time.perf_counter()
        due = started + clock.expovariate(rate)
        while due - started < seconds or waiting or due_of:
            now = time.perf_counter()
            while due <= now and due - started < seconds:
                waiting.append(due)
                due += clock.expovariate(rate)
            while waiting and idle:
                connection = idle.popleft()
                due_of[connection] = waiting.popleft()
                connection.send(next(numbers))
            wait = max(0.0, due - time.perf_counter()) if due - started < seconds else STALLED
            for connection, status in _answered(selector, wait):
                load.count(status, time.perf_counter() - due_of.pop(connection))
                idle.appendleft(connection)
    return load


class Connection:
    """A keep-alive connection to the loopback."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=STALLED)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def ask(self, request: bytes) -> int:
        """Send a request and wait for its answer: the status."""
        self.send(request)
        while (status := self.receive()) is None:
            pass
        return status

    def send(self, request: bytes) -> None:
        """Send a request."""
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Take what has come, or wait for something. The status once the answer is whole, None before."""
        part = self.socket.recv(1 << 20)
        if not part:
            raise ConnectionError("the server closed a connection before its answer was whole")
        self._received += part
        answer = whole_answer(self._received)
        if answer is None:
            return None
        self._received = b""
        return answer[0]


def whole_answer(received: bytes) -> tuple[int, bytes] | None:
    """The status and the head in small letters; None where the body is not whole. Raises ConnectionError."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    head = head.lower()
    _, found, rest = head.partition(b"\r\ncontent-length:")
    if not found:
        raise ConnectionError("an answer has no Content-Length")
    return (int(head[9:12]), head) if len(body) >= int(rest.split(b"\r\n", 1)[0]) else None


def _answered(selector: selectors.BaseSelector, wait: float) -> Iterator[tuple[Connection, int]]:
    """The connections that have their answer within `wait` seconds, and its status."""
    ready = selector.select(wait)
    if not ready and wait >= STALLED:
        raise TimeoutError(f"no answer for {STALLED:.0f} seconds")
    for key, _ in ready:
        status = key.data.receive()
        if status is not None:
            yield key.data, status


@contextlib.contextmanager
def _connections(port: int, number: int) -> Iterator[tuple[selectors.BaseSelector, list[Connection]]]:
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        connections = [Connection(port) for _ in range(number)]
        for connection in connections:
            stack.callback(connection.socket.close)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        yield selector, connections


def _endless(requests: Sequence[bytes]) -> Iterator[bytes]:
    number = 0
    while True:
        yield requests[number % len(requests)]
        number += 1
