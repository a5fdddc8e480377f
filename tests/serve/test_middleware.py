"""The gate: which application a path reaches, hosts, origins, keys, the budget, headers, log lines and metrics."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import json
import logging
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.middleware import Gate
from serve.observe import JsonLines, Metrics, Queued
from serve.settings import ServeSettings

KEY = "s3cret-s3cret-s3cret"


def named(name: str) -> ASGIApp:
    """An application that answers with its name and the length of the body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await PlainTextResponse(f"{name} {len(body)}")(scope, receive, send)

    return app


def gate(site: ASGIApp | None = None, counted: Metrics | None = None, **settings: Any) -> Gate:
    return Gate(named("bento"), site or named("site"), ServeSettings(**settings), counted or Metrics())


def ask(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client(app) as http:
            return await http.request(method, path, **options)

    return asyncio.run(run())


def client(app: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://zoo")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"alice:{KEY}\n")
    return path


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/classify", "bento 0"),
        ("/metrics", "bento 0"),
        ("/readyz", "bento 0"),
        ("/", "site 0"),
        ("/docs", "site 0"),
        ("/ui", "site 0"),
        ("/ui/assets/a.js", "site 0"),
        ("/v1/embed", "site 0"),
        ("/zoo/index.json", "site 0"),
        ("/browser", "site 0"),
        ("/browser/page.js", "site 0"),
    ],
)
def test_gate__sends_each_path_to_its_application(path: str, answer: str) -> None:
    assert ask(gate(), "GET", path).text == answer


@pytest.mark.parametrize(
    "path", ["/wp-login.php", "/uix", "/classify/", "/browserx", "/docs.json", "/static_content/x", "/v1"]
)
def test_gate__answers_unknown_paths_itself(path: str) -> None:
    answer = ask(gate(), "POST", path, content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_path")


@pytest.mark.parametrize("path", ["/v1/classify", "/classify", "/ui/gradio_api/upload", "/zoo/index.json", "/livez"])
def test_gate__limits_every_body(path: str) -> None:
    answer = ask(gate(max_body_mb=1), "POST", path, content=bytes(2**20 + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/models", "/classify", "/zoo/index.json", "/ui/"])
def test_keys__are_needed_where_work_is_done(keys_file: Path, path: str) -> None:
    app = gate(keys_file=keys_file)
    answer = ask(app, "GET", path)
    assert (answer.status_code, answer.json()["code"]) == (401, "missing_key")
    assert answer.headers["www-authenticate"].startswith("Basic" if path == "/ui/" else "Bearer")
    assert ask(app, "GET", path, headers={"x-api-key": KEY + "x"}).json()["code"] == "wrong_key"
    for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
        assert ask(app, "GET", path, headers=headers).status_code == 200
    password = base64.b64encode(f"anybody:{KEY}".encode()).decode()
    expected = 200 if path == "/ui/" else 401  # a browser sends this one by itself, also for another site
    assert ask(app, "GET", path, headers={"authorization": f"Basic {password}"}).status_code == expected


@pytest.mark.parametrize(("metrics", "status"), [("open", 200), ("key", 401), ("off", 404)])
def test_keys__health_is_open_and_metrics_as_set(keys_file: Path, metrics: Any, status: int) -> None:
    app = gate(keys_file=keys_file, metrics=metrics)
    assert ask(app, "GET", "/metrics").status_code == status
    for path in ("/livez", "/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert ask(app, "GET", path).status_code == 200


class Held:
    """An application whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.inside = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        await self.go.wait()
        self.inside -= 1
        await PlainTextResponse("done")(scope, receive, send)


def test_load__beyond_the_places_is_refused_at_once() -> None:
    async def run() -> None:
        site = Held()
        app = gate(site, concurrency=3)
        async with client(app) as http:
            inside = [asyncio.create_task(http.post("/v1/classify", content=b"x")) for _ in range(3)]
            while site.inside < 3:
                await asyncio.sleep(0)
            for path in ("/v1/classify", "/v1/models", "/classify"):
                refused = await http.post(path, content=b"x")  # while the others are held
                assert (refused.status_code, refused.json()["code"]) == (503, "busy")
                assert int(refused.headers["retry-after"]) > 0
            assert (await http.get("/livez")).status_code == 200
            pages = asyncio.create_task(http.get("/ui/"))
            while site.inside < 4:
                await asyncio.sleep(0)
            site.go.set()
            answers = await asyncio.gather(*inside, pages)
            assert [answer.status_code for answer in answers] == [200] * 4
            assert (await http.post("/v1/classify", content=b"x")).status_code == 200

    asyncio.run(asyncio.wait_for(run(), 120))


def test_load__a_slow_sender_holds_no_place() -> None:
    async def run() -> None:
        app = gate(concurrency=1)
        released = asyncio.Event()

        async def body() -> Any:
            yield b"a"
            await released.wait()
            yield b"b"

        async with client(app) as http:
            slow = asyncio.create_task(http.post("/v1/classify", content=body()))
            await asyncio.sleep(0.05)
            assert (await http.post("/v1/classify", content=b"x")).text == "site 1"
            released.set()
            assert (await slow).text == "site 2"

    asyncio.run(asyncio.wait_for(run(), 120))


def test_time__an_answer_that_does_not_begin_is_given_up() -> None:
    async def run() -> None:
        site = Held()
        async with client(gate(site, timeout=0.1, concurrency=1)) as http:
            for _ in range(2):  # and its place is free again
                answer = await http.post("/v1/classify", content=b"x")
                assert (answer.status_code, answer.json()["code"]) == (503, "timed_out")

    asyncio.run(asyncio.wait_for(run(), 120))


@pytest.mark.parametrize(
    ("path", "seconds"),
    [
        ("/v1/heads/pets", "0.2"),
        ("/v1/galleries/x/export", "0.2"),
        ("/v1/galleries/x", "0.1"),
        ("/v1/galleries/export", "0.1"),
        ("/v1/classify", "0.1"),
    ],
)
def test_time__is_longer_where_answers_take_longer(path: str, seconds: str) -> None:
    answer = ask(gate(Held(), timeout=0.1, slow_timeout=0.2), "POST", path, content=b"x")
    assert answer.json()["code"] == "timed_out"
    assert f"within {seconds} seconds" in answer.json()["detail"]


def test_time__an_answer_that_has_begun_is_not_cut_off() -> None:
    async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.2)
        await send({"type": "http.response.body", "body": b"whole"})

    assert ask(gate(slowly, timeout=0.1), "GET", "/v1/galleries/x/export").content == b"whole"


@pytest.mark.parametrize(("path", "policy"), [("/v1/models", "default-src 'none'"), ("/ui/", "default-src 'self'")])
def test_headers__for_browsers(path: str, policy: str) -> None:
    headers = ask(gate(), "GET", path).headers
    assert headers["content-security-policy"].startswith(policy)
    assert "frame-ancestors" in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_headers__web_assembly_runs_on_its_own_page_only() -> None:
    assert "'wasm-unsafe-eval'" in ask(gate(), "GET", "/browser/").headers["content-security-policy"]
    assert "'unsafe-inline'" not in ask(gate(), "GET", "/browser/").headers["content-security-policy"]
    for path in ("/", "/ui/", "/docs", "/zoo/index.json", "/v1/models", "/browserx"):
        assert "wasm" not in ask(gate(), "GET", path).headers["content-security-policy"]


def test_request_id__is_taken_when_sane_and_made_otherwise() -> None:
    app = gate()
    assert ask(app, "GET", "/v1/models", headers={"x-request-id": "a-B_c.1"}).headers["x-request-id"] == "a-B_c.1"
    for wrong in ("", "a b", "x" * 65, "a\tb", '"'):
        made = ask(app, "GET", "/v1/models", headers={"x-request-id": wrong}).headers["x-request-id"]
        assert len(made) == 16
    assert ask(app, "GET", "/nowhere").headers["x-request-id"] != ask(app, "GET", "/nowhere").headers["x-request-id"]


def test_origins__another_sites_page_changes_nothing() -> None:
    app = gate()
    foreign, own = {"origin": "https://evil.example"}, {"origin": "http://zoo"}
    for method in ("POST", "DELETE"):
        assert ask(app, method, "/v1/galleries/x", headers=foreign).json()["code"] == "foreign_origin"
        assert ask(app, method, "/v1/galleries/x", headers={"origin": "null"}).status_code == 403
        assert ask(app, method, "/v1/galleries/x", headers=own).status_code == 200
    read = ask(app, "GET", "/v1/models", headers=foreign)
    assert read.status_code == 200
    assert "access-control-allow-origin" not in read.headers


def test_origins__allowed_ones_may_call(keys_file: Path) -> None:
    friend = "https://friend.example"
    app = gate(cors=(friend,), keys_file=keys_file)
    asked = {"origin": friend, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    assert ask(app, "OPTIONS", "/v1/classify", headers=asked).headers["access-control-allow-origin"] == friend
    answer = ask(app, "POST", "/v1/classify", headers={"origin": friend, "x-api-key": KEY})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, friend)
    other = ask(app, "POST", "/v1/classify", headers={"origin": "https://evil.example", "x-api-key": KEY})
    assert other.status_code == 403


def routed() -> FastAPI:
    site = FastAPI()

    @site.post("/v1/galleries/{name}")
    async def add(name: str) -> str:
        return name

    @site.get("/v1/broken")
    async def broken() -> str:
        raise RuntimeError("secret detail")

    return site


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What the access log holds, as JSON lines."""
    records: list[str] = []

    class Kept(Queued):
        def enqueue(self, record: logging.LogRecord) -> None:
            # In another context, as the thread that reads the queue.
            records.append(contextvars.Context().run(JsonLines().format, record))

    handler = Kept(queue.Queue())
    logger = logging.getLogger("leap_zoo.serve.access")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: records
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_log__has_one_line_for_a_request_and_no_secrets(lines: Callable[[], list[str]], keys_file: Path) -> None:
    app = gate(routed(), keys_file=keys_file)
    headers = {"x-api-key": KEY, "x-request-id": "one"}
    ask(app, "POST", "/v1/galleries/my-photos?token=hidden", headers=headers, content=b"12345")
    ask(app, "GET", "/livez")
    (line,) = lines()
    entry = json.loads(line)
    assert (entry["request_id"], entry["route"], entry["method"]) == ("one", "/v1/galleries/{name}", "POST")
    assert (entry["status"], entry["key"]) == (200, "alice")
    assert (entry["bytes_in"], entry["bytes_out"]) == (5, len('"my-photos"'))
    assert entry["ms"] > 0
    for secret in (KEY, "hidden", "my-photos"):
        assert secret not in line


def test_log__tells_refusals_and_failures(lines: Callable[[], list[str]], keys_file: Path) -> None:
    ask(gate(routed(), keys_file=keys_file), "GET", "/v1/broken")
    assert ask(gate(routed()), "GET", "/v1/broken").status_code == 500
    ask(gate(routed()), "GET", "/secret-path")
    entries = [json.loads(line) for line in lines()]
    assert [(entry["route"], entry["status"], entry["level"]) for entry in entries] == [
        ("unmatched", 401, "info"),
        ("/v1/broken", 500, "warning"),
        ("unmatched", 404, "info"),
    ]


def test_log__a_message_is_one_line() -> None:
    record = logging.LogRecord("leap_zoo", logging.INFO, "", 0, "a\nb\r%s", ("\nforged",), None)
    assert "\n" not in JsonLines().format(record)


def test_metrics__count_by_template_and_are_bounded() -> None:
    metrics = Metrics()
    app = gate(routed(), metrics)
    app.patience.end()
    for number in range(20):
        ask(app, "POST", f"/v1/galleries/{number}")
        ask(app, "GET", f"/v1/{number}")
        ask(app, "GET", f"/guess/{number}")
        ask(app, f"M{number}", "/v1/x")
        ask(app, "GET", f"/ui/{number}")
    metrics.stages(queue_ms=1, decode_ms=2, inference_ms=3)
    text = generate_latest(metrics.registry).decode()
    series = [line for line in text.splitlines() if line.startswith("leap_zoo_requests_total")]
    assert sorted(line.partition("{")[2].rpartition(" ")[0] for line in series) == [
        'method="GET",route="/ui",status_class="4xx"}',
        'method="GET",route="unmatched",status_class="4xx"}',
        'method="POST",route="/v1/galleries/{name}",status_class="2xx"}',
        'method="other",route="unmatched",status_class="4xx"}',
    ]
    assert 'leap_zoo_requests_total{method="POST",route="/v1/galleries/{name}",status_class="2xx"} 20.0' in text
    assert "leap_zoo_in_flight 0.0" in text
    assert 'leap_zoo_stage_seconds_count{stage="decode"} 1.0' in text


def test_stop__is_announced_before_it_happens() -> None:
    app = gate()
    assert "connection" not in ask(app, "GET", "/v1/models").headers
    app.stopping.now = True
    assert ask(app, "GET", "/v1/models").headers["connection"] == "close"
    assert (ask(app, "GET", "/readyz").status_code, ask(app, "GET", "/livez").status_code) == (503, 200)
