"""The page behind its guard: mistakes get their message, and failures are logged and called failures."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from leap_zoo import InvalidArgument
from serve.demo import page
from serve.demo.page import Guard
from serve.demo.uploads import INTERNAL_ERROR, explain

API = "/ui/gradio_api"


def full_disk(*args: object, **options: object) -> None:
    raise OSError(28, "No space left on device", "/secret/path")


def test_explain__a_mistake_gets_its_message_and_a_failure_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "leap_zoo.serve"):
        assert explain(InvalidArgument("add a photo")) == "Add a photo."
        assert not caplog.records
        assert explain(OSError("/secret/path is full")) == INTERNAL_ERROR
    assert "/secret/path is full" in caplog.text


def test_guard__a_full_disk_is_an_internal_error(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.route_utils.NamedTemporaryFile", full_disk)
    upload = {"files": ("a.jpg", b"x", "image/jpeg")}
    answer = client.post(f"{API}/upload", files=upload)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "/secret/path" not in answer.text
    raising = TestClient(client.app)
    with pytest.raises(OSError, match="No space left on device"):  # for the server to log
        raising.post(f"{API}/upload", files=upload)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/queue/join", {"data": [1], "fn_index": 9999, "session_hash": "x"}),
        ("/call/nope", {"data": [1]}),
        ("/run/nope", {"data": [1]}),
        ("/component_server", {"data": [], "component_id": 999, "fn_name": "x", "session_hash": "y"}),
    ],
)
def test_guard__a_function_that_does_not_exist_is_the_clients_mistake(
    client: TestClient, path: str, body: dict[str, object]
) -> None:
    answer = client.post(API + path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")


def test_guard__an_unknown_session_is_not_a_failure(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    """Any client could fill the log with tracebacks."""
    assert "session_not_found" in client.get(f"{API}/queue/data", params={"session_hash": "nobody"}).text
    assert not caplog.records


@pytest.mark.parametrize(("kind", "last"), [(b"text/event-stream; charset=utf-8", b""), (b"text/html", b"end")])
@pytest.mark.parametrize("begins_late", [False, True])
def test_guard__ends_event_streams_that_gradio_would_not_end(
    monkeypatch: pytest.MonkeyPatch, kind: bytes, last: bytes, begins_late: bool
) -> None:
    """A stream of results of a session that has nothing to do kept the server from stopping."""
    monkeypatch.setattr(page, "LAST_WORDS_SECONDS", 0.05)

    async def run() -> list[Message]:
        sent: list[Message] = []
        stopped = asyncio.Event()

        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            stopped.set()
            await asyncio.sleep(120 if last == b"" else 0.2)
            await send({"type": "http.response.body", "body": b"end", "more_body": False})

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            sent.append(message)

        page = Guard(stream, asyncio.Event())
        if begins_late:
            page.end_streams()
        answer = asyncio.ensure_future(page({"type": "http", "path": f"{API}/queue/data"}, receive, send))
        await stopped.wait()
        page.end_streams()
        await asyncio.wait_for(answer, 60)
        return sent

    assert asyncio.run(run())[-1] == {"type": "http.response.body", "body": last, "more_body": False}


def test_event__a_failure_is_logged_and_named(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The button `Use sample photos` makes thumbnails; here the disk is full."""
    config = client.get("/ui/config").json()
    button = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "leap-example")
    function = next(one for one in config["dependencies"] if [button, "click"] in [list(t) for t in one["targets"]])
    monkeypatch.setattr("gradio.components.gallery.Gallery.postprocess", full_disk)
    event = {"data": [None] * len(function["inputs"]), "fn_index": function["id"], "session_hash": "full"}
    with caplog.at_level(logging.ERROR, "leap_zoo.serve"):
        assert client.post(f"{API}/queue/join", json=event).status_code == 200
        said = client.get(f"{API}/queue/data", params={"session_hash": "full"}).text
    assert INTERNAL_ERROR in said
    assert "/secret/path" not in said
    assert "No space left on device" in caplog.text


def test_prefix__of_a_reverse_proxy_is_kept(client: TestClient) -> None:
    behind = TestClient(client.app, root_path="/leap")
    assert behind.get("/leap/ui/config").json()["root"].endswith("/leap/ui")
    page = behind.get("/leap/ui/").text
    # Gradio's template names the manifest absolutely; nobody clicks on that one.
    assert not re.findall(r'(?:href|src)="/(?!leap/|manifest\.json)', page)
