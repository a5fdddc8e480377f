"""The HTTP contract against a real `bentoml serve`: right answers, hostile bodies, and a server that stays up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
import httpx
import pytest

from serve.settings import PHOTO, ServeSettings

MAX_BODY = ServeSettings().max_body_bytes
STARTED = "Service leap-zoo initialized"  # logged by every worker that starts


@pytest.fixture(scope="module")
def http(server) -> Iterator[httpx.Client]:
    """A client of the running server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def alive_afterwards(server) -> Iterator[None]:
    """After every test the first worker still answers: none has crashed and been replaced."""
    yield
    assert httpx.get(server.url + "/readyz", timeout=60).status_code == 200
    assert server.log.read_text().count(STARTED) == 1
    assert "Traceback" not in server.log.read_text()


def problem(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, whose body must be a Problem."""
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert "Traceback" not in body["detail"]
    return response.status_code, body["code"]


def test_torch__cannot_be_imported_where_the_server_runs(torchless: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", "import torch"], env=torchless, capture_output=True, text=True)
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr


def test_v1__answers_past_bentoml(http: httpx.Client, colour_photos: dict[str, Path]) -> None:
    files = [("image", path.read_bytes()) for path in colour_photos.values()]
    body = http.post("/v1/classify?top=1", files=files).json()
    assert [row[0]["label"] for row in body["predictions"]] == list(colour_photos)
    rows = http.post("/v1/embed?encoding=base64", files=files).json()["embeddings"]
    assert [len(row) for row in rows] == [44] * 3  # 8 float32
    assert http.get("/v1/models").json()["data"][0]["id"] == "leap-tiny-test"
    assert problem(http.post("/v1/embed", files=[*files, ("image", b"no photo")])) == (415, "not_an_image")
    assert http.get("/docs").status_code == 200


def test_health__answers(http: httpx.Client) -> None:
    for path in ("/livez", "/healthz", "/readyz"):
        assert http.get(path).status_code == 200


def test_classify__form_and_raw_body_agree(http: httpx.Client, colour_photos: dict[str, Path]) -> None:
    for colour, path in colour_photos.items():
        form = http.post("/classify", files={"image": path.open("rb")}).json()
        raw = http.post("/classify", content=path.read_bytes(), headers={"content-type": "image/*"}).json()
        assert form["predictions"] == raw["predictions"]
        assert form["predictions"][0]["label"] == colour
        assert (form["model"], form["head"], form["precision"]) == ("leap-tiny-test", "colours", "int8")


def test_classify__answers_curl_as_the_readme_has_it(server, colour_photos: dict[str, Path]) -> None:
    command = ["curl", "-sf", "-F", f"image=@{colour_photos['green']}", f"localhost:{server.port}/classify"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    assert json.loads(done.stdout)["predictions"][0]["label"] == "green"


def test_embed__answers(http: httpx.Client, colour_photos: dict[str, Path]) -> None:
    body = http.post("/embed?space=teacher", files={"image": colour_photos["red"].open("rb")}).json()
    assert (len(body["embedding"]), body["space"], body["model"]) == (12, "teacher", "leap-tiny-test")


def test_bentoml_client__calls_the_methods(server, http: httpx.Client, colour_photos: dict[str, Path]) -> None:
    files = [("image", path.read_bytes()) for path in colour_photos.values()]
    added = http.post("/v1/galleries/native/items?create=true", files=files, data={"id": list(colour_photos)})
    assert added.status_code == 200
    with bentoml.SyncHTTPClient(server.url) as client:
        for colour, path in colour_photos.items():
            assert client.classify(image=path, top=1)["predictions"][0]["label"] == colour
            assert client.search(image=path, gallery="native", k=1)["hits"][0]["id"] == colour
        assert len(client.embed(image=colour_photos["red"])["embedding"]) == 8
        assert len(client.embed(image=colour_photos["red"], space="teacher")["embedding"]) == 12
        with pytest.raises(bentoml.exceptions.BentoMLException, match="unknown_gallery"):
            client.search(image=colour_photos["red"], gallery="nothing")
        with pytest.raises(bentoml.exceptions.BentoMLException, match="does not contain a photo"):
            client.embed(image="http://127.0.0.1:1/photo.jpg")  # which BentoML would have fetched
    http.delete("/v1/galleries/native")


def test_classify__clients_at_once_get_their_own_answers(http: httpx.Client, colour_photos: dict[str, Path]) -> None:
    photos = [(colour, path.read_bytes()) for colour, path in colour_photos.items()] * 20

    def ask(pair: tuple[str, bytes]) -> bool:
        return http.post("/classify", files={"image": pair[1]}).json()["predictions"][0]["label"] == pair[0]

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, photos))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"I am no photo", (415, "not_an_image")),
        (b"\x89PNG\r\n\x1a\n", (400, "undecodable_image")),
        (b"\xff\xd8\xff", (400, "undecodable_image")),
        (b"\x00" * 100_000, (415, "not_an_image")),
        (b"", (400, "missing_photo")),
    ],
)
def test_classify__refuses_hostile_bytes(http: httpx.Client, body: bytes, expected: tuple[int, str]) -> None:
    assert problem(http.post("/classify", files={"image": body})) == expected
    assert problem(http.post("/embed", content=body, headers={"content-type": "image/jpeg"})) == expected


def test_classify__refuses_a_truncated_photo(http: httpx.Client, sample_photos: list[Path]) -> None:
    data = sample_photos[0].read_bytes()
    assert problem(http.post("/classify", files={"image": data[: len(data) // 3]})) == (400, "undecodable_image")


def test_classify__refuses_forms_and_options(http: httpx.Client, colour_photos: dict[str, Path]) -> None:
    red = colour_photos["red"].read_bytes()
    assert problem(http.post("/classify", files=[("a", red), ("b", red)])) == (400, "several_photos")
    assert problem(http.post("/classify", files={"image": (None, "text")})) == (422, "image_is_text")
    assert problem(http.post("/classify?top=-1", files={"image": red})) == (422, "invalid_option")
    assert problem(http.post("/classify?head=x", files={"image": red})) == (404, "unknown_head")
    assert problem(http.post("/embed?space=x", files={"image": red})) == (422, "invalid_option")
    assert problem(http.post("/classify", json={})) == (415, "unsupported_content_type")
    assert problem(http.get("/classify")) == (405, "wrong_method")


def test_body__one_byte_of_photo_too_many(http: httpx.Client) -> None:
    answer = http.post("/classify", content=b"\xff" * (PHOTO.bytes + 1), headers={"content-type": "image/jpeg"})
    assert problem(answer) == (413, "image_too_large")


def test_body__too_large_is_answered_while_it_is_sent(http: httpx.Client) -> None:
    answer = http.post("/classify", content=bytes(MAX_BODY + 1), headers={"content-type": "image/jpeg"})
    assert problem(answer) == (413, "body_too_large")


@pytest.mark.parametrize("path", ["/classify", "/ui/gradio_api/upload"])
def test_body__endless_chunks_are_cut_off(server, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        try:
            while time.monotonic() - start < 60:
                connection.sendall(chunk)
        except (ConnectionResetError, BrokenPipeError):
            return
    pytest.fail("the server takes a body that never ends")


def test_body__chunked_and_too_large_gets_its_answer(server) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + chunk * (MAX_BODY // 0x10000 + 3))
        answer = b""
        while received := connection.recv(65536):
            answer += received
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "body_too_large"


def test_unknown_paths__make_no_metric(http: httpx.Client, colour_photos: dict[str, Path]) -> None:
    http.post("/classify", files={"image": colour_photos["red"].open("rb")})
    assert problem(http.get("/never-heard-of-it")) == (404, "unknown_path")
    http.get("/ui/never-heard-of-it")
    metrics = http.get("/metrics").text
    assert 'endpoint="/classify"' in metrics
    assert "never-heard-of-it" not in metrics


def test_host__is_the_loopback_alone(server) -> None:
    """All of 127/8 is this machine: a server bound to every address would answer at 127.0.0.2, too."""
    if sys.platform != "linux":
        pytest.skip("only Linux answers at every address of 127/8")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("kind", ["file", "address"])
def test_ui__reads_uploads_only(http: httpx.Client, colour_photos: dict[str, Path], kind: str, is_stream: bool) -> None:
    """A client of the page's own queue may name any file of the server, or any address, as the value of any input."""
    path = str(colour_photos["red"]) if kind == "file" else "https://example.org/photo.jpg"
    hostile = {"path": path, "is_stream": is_stream, "meta": {"_type": "gradio.FileData"}}
    config = http.get("/ui/config").json()
    types = {component["id"]: component["type"] for component in config["components"]}
    names = {component["id"]: component["props"].get("elem_id") for component in config["components"]}
    tried = set()
    for function in config["dependencies"]:
        for field, component in enumerate(function["inputs"]):
            takes_files = types[component] in ("image", "file")
            if types[component] == "state" or (is_stream and not takes_files):  # of a stream, only these read a file
                continue
            data: list[object] = [None] * len(function["inputs"])
            data[field] = [hostile] if types[component] == "file" else hostile
            session = f"hostile{function['id']}x{field}"
            event = {"data": data, "fn_index": function["id"], "session_hash": session}
            assert http.post("/ui/gradio_api/queue/join", json=event).status_code == 200
            events = http.get("/ui/gradio_api/queue/data", params={"session_hash": session}).text
            (last,) = [message for message in _messages(events) if message["msg"] == "process_completed"]
            assert last["success"] is False, (function["id"], field)
            assert last["output"]["error"] == "Only uploaded photos can be read."
            tried.add(names[component])
    photos = {"leap-photo", "leap-query", "leap-add", "leap-drop", "leap-try"}
    assert tried == photos if is_stream else tried > photos
    assert http.get(f"/ui/gradio_api/file={path}").status_code in (403, 404)


def _messages(events: str) -> list[dict[str, object]]:
    return [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
