"""One budget for all requests: bytes that are read and written, places, and time."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import budget
from serve.middleware import Gate
from serve.observe import Metrics
from serve.settings import ServeSettings

MIB = 2**20


class Client:
    """A client that sends a body when told to, and may stop reading."""

    def __init__(self, *chunks: bytes, unread: bool = False, last: bool = True) -> None:
        self.chunks, self.last = list(chunks), last
        self.sent: list[Message] = []
        self.go_on = asyncio.Event()
        self._unread = unread

    async def receive(self) -> Message:
        if self.chunks:
            chunk = self.chunks.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self.chunks) or not self.last}
        await self.go_on.wait()
        return {"type": "http.disconnect"} if self.last else {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self._unread and message["type"] == "http.response.body":
            await asyncio.Event().wait()  # as uvicorn waits for a socket that nobody empties

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await Response(f"{len(body)}")(scope, receive, send)


def gate(app: ASGIApp = answers, **settings: Any) -> Gate:
    return Gate(app, app, ServeSettings(**settings), Metrics())


def ask(app: Gate, client: Client, path: str = "/v1/embed", method: str = "POST", **headers: str) -> Awaitable[None]:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "zoo", **headers}.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": given, "query_string": b""}
    return asyncio.ensure_future(app(scope, client.receive, client.send))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.001)


def test_body__of_the_limit_is_handed_on() -> None:
    async def run() -> None:
        client = Client(bytes(MIB // 2), bytes(MIB // 2))
        await ask(gate(max_body_mb=1), client)
        assert client.sent[1]["body"] == str(MIB).encode()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "chunks"), [({}, 3), ({"content_length": "2"}, 3), ({"content_length": "9" * 9}, 1)]
)
def test_body__is_counted_whatever_it_announces(headers: dict[str, str], chunks: int) -> None:
    async def run() -> None:
        client = Client(*[bytes(MIB // 2 + 1)] * chunks)
        client.go_on.set()
        await ask(gate(max_body_mb=1), client, **headers)
        assert (client.status, client.code) == (413, "body_too_large")
        assert (b"connection", b"close") in client.sent[0]["headers"]

    asyncio.run(run())


def test_body__that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "READ_SECONDS", 0.05)
    monkeypatch.setattr(budget, "LINGER_SECONDS", 0.05)

    async def run() -> None:
        client, app = Client(b"x", last=False), gate()
        await ask(app, client)
        assert (client.status, client.code) == (408, "body_too_slow")
        assert client.sent[-1]["more_body"] is False
        assert app.budget.held == 0

    asyncio.run(run())


def test_body__of_a_disconnected_client_gets_no_answer() -> None:
    async def run() -> None:
        client = Client()
        client.go_on.set()
        await ask(gate(), client)
        assert client.sent == []

    asyncio.run(run())


def test_body__that_gave_way_is_freed_before_its_client_has_been_told() -> None:
    """The error of a refused body kept its bytes for the seconds in which the answer was sent."""

    async def run() -> None:
        app = gate(max_body_mb=8, memory_mb=16)
        uploads = []
        for _ in range(40):
            uploads.append(Client(*(bytes(64 * 1024) for _ in range(64)), last=False))
            ask(app, uploads[-1])
            await until(lambda: not uploads[-1].chunks)
        await until(lambda: sum(client.status == 503 for client in uploads) >= 36)
        assert tracemalloc.get_traced_memory()[0] < 24 * MIB
        for client in uploads:
            client.go_on.set()

    tracemalloc.start()
    try:
        asyncio.run(run())
    finally:
        tracemalloc.stop()


def test_budget__is_one_for_all_entries_and_the_largest_unfinished_body_gives_way() -> None:
    """Forty unfinished uploads took 2.7 GB: each kind of path had a budget of its own."""

    async def run() -> None:
        app = gate(max_body_mb=8, memory_mb=16)
        paths = ("/v1/embed", "/classify", "/ui/gradio_api/upload", "/v1/heads/x")
        uploads = []
        for path in paths * 10:
            uploads.append(Client(bytes(4 * MIB), last=False))
            ask(app, uploads[-1], path)
            await asyncio.sleep(0)
        await until(lambda: sum(client.status == 503 for client in uploads) >= 36)
        assert app.budget.held <= 16 * MIB
        small = Client(b"x" * 1000)
        await ask(app, small)  # a well-behaved client is answered meanwhile
        assert (small.status, small.sent[1]["body"]) == (200, b"1000")
        for client in uploads:
            client.go_on.set()
        await until(lambda: all(client.status for client in uploads))
        await until(lambda: app.budget.held == 0)

    asyncio.run(run())


async def megabyte(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(bytes(MIB))(scope, receive, send)


def test_answer__unread_frees_its_place() -> None:
    """64 sockets that did not read their answers kept all others out for as long as they liked."""

    async def run() -> None:
        app = gate(megabyte, concurrency=2)
        silent = [Client(b"", unread=True) for _ in range(6)]
        held = [ask(app, client, "/v1/galleries/x/items", "GET") for client in silent]
        await until(lambda: all(client.sent for client in silent))  # more than there are places
        assert len(app.table.places.inside) == 0
        assert app.budget.held == 6 * MIB
        assert all(len(message.get("body", b"")) <= budget.SLICE for client in silent for message in client.sent)
        reader = Client(b"")
        await ask(app, reader)
        assert (reader.status, len(reader.body)) == (200, MIB)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert app.budget.held == 0

    asyncio.run(run())


def test_answer__unread_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "WRITE_SECONDS", 0.05)

    async def run() -> None:
        app, silent = gate(megabyte), Client(b"", unread=True)
        await ask(app, silent, "/v1/galleries/x/items", "GET")
        assert silent.sent
        assert app.budget.held == 0

    asyncio.run(run())


def test_answer__has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def huge(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(bytes(9 * MIB))(scope, receive, send)

    async def run() -> None:
        client = Client(b"")
        await ask(gate(huge), client)
        assert (client.status, client.code) == (413, "answer_too_large")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "limit"), [("/zoo/m/model.onnx", "MAX_TRANSFERS"), ("/v1/galleries/x/export", "MAX_EXPORTS")]
)
def test_transfer__of_a_silent_client_is_cut_off_and_makes_room(
    monkeypatch: pytest.MonkeyPatch, path: str, limit: str
) -> None:
    monkeypatch.setattr(budget, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(f"serve.rules.{limit}", 2)
    closed = []

    async def file(scope: Scope, receive: Receive, send: Send) -> None:
        async def blocks() -> AsyncIterator[bytes]:
            try:
                for _ in range(4):
                    yield bytes(MIB)
            finally:
                closed.append(scope["path"])

        await StreamingResponse(blocks())(scope, receive, send)

    async def run() -> None:
        app = gate(file)
        silent = [Client(b"", unread=True) for _ in range(2)]
        held = [ask(app, client, path, "GET") for client in silent]
        await until(lambda: all(client.sent for client in silent))
        reader = Client(b"")
        await ask(app, reader, path, "GET")
        assert (reader.status, len(reader.body)) == (200, 4 * MIB)
        await held[0]  # the oldest gave way
        assert not held[1].done()
        held[1].cancel()

    asyncio.run(run())


def test_export__that_is_still_written_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise more and more of them would be written at the same time."""
    monkeypatch.setattr(budget, "LONG_SECONDS", 0.0)
    monkeypatch.setattr("serve.rules.MAX_EXPORTS", 2)

    async def run() -> None:
        inside, written = 0, asyncio.Event()

        async def export(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal inside
            inside += 1
            await written.wait()
            await Response(b"npz")(scope, receive, send)

        app, path = gate(export), "/v1/galleries/x/export"
        held = [ask(app, Client(b""), path, "GET") for _ in range(2)]
        await until(lambda: inside == 2)
        third = Client(b"")
        await asyncio.wait({ask(app, third, path, "GET")}, timeout=0.2)
        assert inside == 2
        assert (third.status, third.code) == (503, "busy")
        written.set()
        await asyncio.gather(*held)

    asyncio.run(run())


def test_export__of_a_client_that_left_is_cancelled_while_it_is_written() -> None:
    async def run() -> None:
        cancelled = asyncio.Event()

        async def export(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        client = Client(b"")
        task = ask(gate(export), client, "/v1/galleries/x/export", "GET")
        await asyncio.sleep(0)
        client.go_on.set()
        await task
        assert cancelled.is_set()
        assert client.sent == []

    asyncio.run(run())


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("no", 404)(scope, receive, send)


@pytest.mark.parametrize("path", ["/v1/embed", "/zoo/m/model.onnx", "/nowhere", "/ui/x"])
def test_patience__a_flood_of_refusals_waits_and_holds_nothing(path: str) -> None:
    """64 clients that asked for models that are not loaded left 7 % of the rate to another client."""

    async def run() -> None:
        app = gate(refuses, concurrency=2)
        one = Client(b"x")
        await ask(app, one, path)
        assert one.status == 404  # a mistake now and then waits for nothing
        app.patience._turn = float("inf")  # a second is full of refusals
        flood = [Client(b"x" * 1000) for _ in range(64)]
        asked = [ask(app, client, path) for client in flood]
        await until(lambda: len(app.patience.waiting) == 64)
        assert len(app.table.places.inside) == 0
        assert app.budget.held <= 64 * len("no")  # the answers; the bodies are free
        assert not any(client.sent for client in flood)
        app.patience.end()  # the process was told to stop
        await asyncio.gather(*asked)
        assert {client.status for client in flood} == {404}
        late = Client(b"x")
        app.patience._turn = float("inf")
        await ask(app, late, path)
        assert late.status == 404

    asyncio.run(run())


def test_patience__is_for_busy_servers_where_a_body_was_read_in_vain() -> None:
    """Two clients that sent large bodies again and again took more than those whose bodies were accepted."""

    async def run() -> None:
        async def busy(scope: Scope, receive: Receive, send: Send) -> None:
            await Response("busy", 503)(scope, receive, send)

        app = gate(busy)
        app.patience._turn = float("inf")  # a second is full of refusals
        small, large = Client(b"x" * 1000), Client(bytes(MIB))
        asked = ask(app, large)
        await until(lambda: len(app.patience.waiting) == 1)
        await ask(app, small)
        assert (small.status, large.status) == (503, None)
        app.patience.end()
        await asked
        assert large.status == 503

    asyncio.run(run())


def test_patience__is_bounded_in_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(budget, "REFUSALS", 4.0)
    monkeypatch.setattr(budget, "MAX_PATIENT", 20)

    async def run() -> None:
        patience, sent = budget.Patience(), []
        for _ in range(30):
            asked = asyncio.ensure_future(patience.wait(1))
            await asyncio.sleep(0)
            sent.append(asked.done())
        assert sent == [True] * 5 + [False] * 20 + [True] * 5
        now = asyncio.get_running_loop().time()
        assert all((one.when() or now) - now <= budget.PATIENCE_SECONDS for one in patience.waiting)
        patience.end()
        await until(lambda: not patience.waiting)
        later = budget.Patience()
        await later.wait(1000)  # the first mistake, with a large body
        assert not later.waiting
        refused = asyncio.ensure_future(later.wait(1))
        await asyncio.sleep(0)
        assert len(later.waiting) == 1
        clock[0] += 60
        await later.wait(1)  # the flood is over
        later.end()
        await refused

    asyncio.run(run())


def test_time__work_for_a_client_that_left_is_cancelled() -> None:
    async def run() -> None:
        cancelled = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        app, client = gate(slow), Client(bytes(MIB))
        task = ask(app, client)
        await until(lambda: len(app.table.places.inside) == 1)
        client.go_on.set()
        await task
        assert cancelled.is_set()
        assert len(app.table.places.inside) == app.budget.held == 0

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/v1/galleries", "/classify", "/ui/", "/zoo/index.json", "/", "/browser/"])
@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("localhost:3000", True),
        ("127.0.0.1", True),
        ("[::1]:3000", True),
        ("leap-zoo:3000", True),
        ("evil.example", False),
    ],
)
def test_host__an_unlisted_name_is_refused_where_no_key_is_needed(path: str, host: str, served: bool) -> None:
    """A page of evil.example whose name points here (DNS rebinding) has equal Host and Origin, and no key."""

    async def run() -> None:
        client = Client(b"")
        await ask(gate(), client, path, "GET", host=host, origin=f"http://{host}")
        assert client.status == (200 if served else 421)

    asyncio.run(run())


def test_host__a_list_holds_for_all() -> None:
    async def run() -> None:
        for host, status in (("zoo.example:443", 200), ("localhost", 421)):
            client = Client(b"")
            await ask(gate(hosts=("zoo.example",)), client, host=host)
            assert client.status == status

    asyncio.run(run())


def test_origin__of_another_site_changes_nothing_on_the_page_either() -> None:
    async def run() -> None:
        client = Client(b"")
        await ask(gate(), client, "/ui/gradio_api/upload", origin="http://evil.example")
        assert (client.status, client.code) == (403, "foreign_origin")

    asyncio.run(run())


def test_head__is_answered_where_get_is() -> None:
    async def run() -> None:
        get, head = Client(b""), Client(b"")
        await ask(gate(), get, "/v1/models", "GET")
        await ask(gate(), head, "/v1/models", "HEAD")
        assert head.status == 200
        assert head.body == b""
        length = (b"content-length", b"1")
        assert length in get.sent[0]["headers"]
        assert length in head.sent[0]["headers"]

    asyncio.run(run())


def test_coding__of_a_body_is_named() -> None:
    async def run() -> None:
        client = Client(b"x")
        await ask(gate(), client, content_encoding="gzip")
        assert (client.status, client.code) == (415, "unsupported_encoding")

    asyncio.run(run())
