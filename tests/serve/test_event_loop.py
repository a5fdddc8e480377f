"""What may take long is read beside the event loop: large bodies of JSON, headers that unpack texts."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import Any

import httpx
import pytest
from PIL import Image

from leap_zoo.decode import Opened
from serve import photos
from serve.app import make_app
from serve.engine import Engine
from serve.settings import ServeSettings
from serve.stores import Stores

ZEROS = "A" * 200_000  # base64 of no photo


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embed", {"images": [ZEROS]}),
        ("/v1/embeddings", {"input": ZEROS}),
        ("/v1/galleries/g/items?create=true", {"images": [ZEROS]}),
        ("/v1/heads/h", {"classes": {"a": [ZEROS], "b": [ZEROS]}}),
        ("/v1/galleries/g/vectors", {"model": "m", "revision": "r", "ids": ["a"], "vectors": [ZEROS]}),
    ],
)
def test_json__a_large_body_does_not_block_other_requests(
    engine: Engine, stores: Stores, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    decode = photos._decode_json

    def held(*given: Any) -> Any:
        begun.set()
        assert may_end.wait(60), "the event loop answered nobody while the body was read"
        return decode(*given)

    monkeypatch.setattr(photos, "_decode_json", held)

    async def ask() -> None:
        transport = httpx.ASGITransport(make_app(engine, stores, ServeSettings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            large = asyncio.create_task(http.post(path, json=body))
            while not begun.is_set():
                await asyncio.sleep(0.01)
            assert (await http.get("/v1/models")).status_code == 200
            may_end.set()
            assert 400 <= (await large).status_code < 500

    asyncio.run(ask())


@pytest.mark.parametrize(("kind", "beside"), [("JPEG", False), ("PNG", True), ("WEBP", True), ("TIFF", True)])
def test_header__that_may_unpack_something_is_read_beside_the_event_loop(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, kind: str, beside: bool
) -> None:
    readers = set[threading.Thread]()

    def opened(*given: Any) -> Opened:
        readers.add(threading.current_thread())
        return Opened(*given)

    monkeypatch.setattr("serve.engine.Opened", opened)
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind)
    asyncio.run(engine.embed([file.getvalue()]))
    assert (threading.current_thread() not in readers) == beside
