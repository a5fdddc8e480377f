"""Cheap and silent clients against a real server: beside each attack a well-behaved client is answered.

Nothing here looks at a clock or at memory: what counts is who is answered, and who is refused or cut off.
"""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from PIL import Image

if TYPE_CHECKING:
    from conftest import Server

JPEG = {"content-type": "image/jpeg"}
MEBI = 2**20


@pytest.fixture(scope="module")
def photo(colour_photos: dict[str, Path]) -> bytes:
    return colour_photos["red"].read_bytes()


def answers(server: Server, photo: bytes, number: int = 10) -> list[int]:
    """The statuses that a well-behaved client gets, over one connection."""
    with httpx.Client(base_url=server.url, timeout=120) as http:
        return [http.post("/v1/embed", content=photo, headers=JPEG).status_code for _ in range(number)]


@contextlib.contextmanager
def connections(server: Server, sent: list[bytes]) -> Iterator[list[socket.socket]]:
    """A connection for each of `sent`, over which it is sent, as far as the server takes it."""
    opened: list[socket.socket] = []
    try:
        for data in sent:
            one = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            opened.append(one)
            with contextlib.suppress(OSError):  # refused, and cut off
                one.sendall(data)
        yield opened
    finally:
        for one in opened:
            one.close()


def test_readers__who_never_read_do_not_block_others(server: Server, photo: bytes) -> None:
    large = {f"n{key}": "x" * 1000 for key in range(15)}
    with httpx.Client(base_url=server.url, timeout=120) as http:
        for part in range(15):
            ids = [f"{part}-{at}" for at in range(32)]
            body = {"images": [base64.b64encode(photo).decode()] * 32, "ids": ids, "metadata": [large] * 32}
            assert http.post("/v1/galleries/large/items?create=true", json=body).status_code == 200
    get = b"GET /v1/galleries/large/items?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connections(server, [get * 2] * 70):
        # While the pages are being made, they may hold all bytes for a moment; then they wait for their readers.
        tries = (answers(server, photo, 1) for _ in range(200))
        assert [200] in tries
        assert answers(server, photo) == [200] * 10


def test_senders__who_never_finish_share_one_budget(server: Server, photo: bytes) -> None:
    """Together they send more than all bodies may have, over routes of every kind."""
    heads = [
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {19 * MEBI}\r\n\r\n"
        for path in ("/v1/embed", "/v1/heads/slow", "/classify", "/v1/galleries/x/search")
    ]
    sent = [heads[at % len(heads)].encode() + bytes(18 * MEBI) for at in range(32)]
    with connections(server, sent) as senders:
        assert answers(server, photo) == [200] * 10
        assert sum(map(has_an_end, senders)) >= 1


def has_an_end(one: socket.socket) -> bool:
    """Whether the server has answered, or has closed the connection."""
    one.settimeout(0.2)
    try:
        one.recv(100)
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_pixels__are_what_a_request_costs(server: Server, photo: bytes) -> None:
    file = io.BytesIO()
    Image.new("L", (5000, 4999)).save(file, "PNG")
    bomb = base64.b64encode(file.getvalue()).decode()
    url = server.url + "/v1/embed"
    assert httpx.post(url, json={"images": [bomb] * 32}, timeout=240).status_code == 413
    threads = [
        threading.Thread(target=httpx.post, args=(url,), kwargs={"json": {"images": [bomb] * 5}, "timeout": 240})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert answers(server, photo) == [200] * 10
    for thread in threads:
        thread.join()


def test_where__has_few_conditions(server: Server, photo: bytes) -> None:
    many = "{" + ",".join(f'"k{at}":1' for at in range(400)) + "}"
    httpx.post(server.url + "/v1/galleries/few/items?create=true", content=photo, headers=JPEG, timeout=120)
    search = server.url + "/v1/galleries/few/search"
    refused = httpx.post(search, params={"where": many}, content=photo, headers=JPEG, timeout=120)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_option")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/galleries", "/schema.json", "/zoo/index.json", "/ui/", "/"])
def test_hosts__a_name_that_another_site_points_here_is_refused(server: Server, path: str) -> None:
    rebound = {"host": f"evil.example:{server.port}"}
    assert 400 <= httpx.get(server.url + path, headers=rebound, timeout=120).status_code < 500
    own = {"host": f"localhost:{server.port}"}
    assert httpx.get(server.url + path, headers=own, timeout=120).status_code == 200


@pytest.mark.parametrize("path", ["/v1/heads/x", "/ui/gradio_api/upload", "/classify"])
def test_origins__another_site_posts_nothing(server: Server, photo: bytes, path: str) -> None:
    foreign = {"origin": "https://evil.example"}
    refused = httpx.post(server.url + path, files={"files": photo}, headers=foreign, timeout=120)
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
