"""/v1/classify and /v1/embed, which read their options by themselves, answer as FastAPI would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from serve.api import predict
from serve.app import make_app
from serve.engine import Engine
from serve.settings import ServeSettings
from serve.stores import open_stores

JPEG = {"content-type": "image/jpeg"}
TIMES = {"milliseconds", "decode_ms", "inference_ms", "queue_ms"}


@pytest.fixture(scope="module")
def both(engine: Engine) -> tuple[TestClient, TestClient]:
    """The API as it is, and with routes of FastAPI's own."""
    settings = ServeSettings(max_photos=4)
    short = make_app(engine, open_stores(), settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "HotRoute", APIRoute)
        long = make_app(engine, open_stores(), settings)
    return tuple(TestClient(app, raise_server_exceptions=False) for app in (short, long))  # type: ignore[return-value]


def answer(client: TestClient, method: str, url: str, request: dict[str, Any]) -> tuple[Any, ...]:
    response = client.request(method, url, **request)
    body = {name: value for name, value in json.loads(response.content or "{}").items() if name not in TIMES}
    return response.status_code, response.headers["content-type"], body


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?top=2",
        "?top=2&top=1",
        "?top=0",
        "?top=",
        "?top=2.0",
        "?head=colours",
        "?head=colour",
        "?head=",
        "?hed=colours",
        "?model=leap-tiny-test",
        "?model=leap-tiny%2Dtest",
        "?model=l%C3%A9ap",
        "?model=\u00ff",
        "?space=teacher",
        "?space=teachers",
        "?encoding=base64",
        "?encoding=float&space=student",
        "?" + "top=1&" * 60,
    ],
)
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embed"])
def test_query__is_read_as_fastapi_reads_it(
    both: tuple[TestClient, TestClient], colour_photos: dict[str, Path], path: str, query: str
) -> None:
    request = {"content": colour_photos["red"].read_bytes(), "headers": JPEG}
    short, long = (answer(client, "POST", path + query, request) for client in both)
    assert short == long


@pytest.mark.parametrize(
    "request_",
    [
        {"content": b"", "headers": JPEG},
        {"content": b"no photo", "headers": JPEG},
        {"content": b"{", "headers": {"content-type": "application/json"}},
        {"json": {"images": []}},
        {"content": b"text", "headers": {"content-type": "text/plain"}},
        {"files": [("image", b"no photo")] * 5},
    ],
)
def test_body__is_refused_as_by_fastapi(both: tuple[TestClient, TestClient], request_: dict[str, Any]) -> None:
    short, long = (answer(client, "POST", "/v1/embed", request_) for client in both)
    assert short == long
    assert short[0] in (400, 413, 415, 422)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_method__other_than_post_is_left_to_fastapi(both: tuple[TestClient, TestClient], method: str) -> None:
    short, long = (answer(client, method, "/v1/embed", {}) for client in both)
    assert short == long
    assert short[0] == 405


def test_failure__internal_is_answered_with_500(
    both: tuple[TestClient, TestClient], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(engine, "embed", fail)
    short, long = (answer(client, "POST", "/v1/embed", {"content": b"x", "headers": JPEG}) for client in both)
    assert short == long
    assert short[0] == 500
    assert "secret" not in str(short)
