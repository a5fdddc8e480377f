"""Without the demo, several processes answer, on the same galleries and heads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Server


@pytest.fixture(scope="module")
def several(start, tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory):
    data = tmp_path_factory.mktemp("data")
    with start(
        LEAP_ZOO_URL=str(tiny_zoo),
        LEAP_ZOO_SERVE_MODEL="leap-tiny-test",
        LEAP_ZOO_SERVE_UI="off",
        LEAP_ZOO_SERVE_WORKERS="2",
        LEAP_ZOO_SERVE_DATA=str(data),
    ) as server:
        wait_for(lambda: len(workers(server)) == 2 and all(map(is_up, workers(server))))
        yield server


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def is_up(worker: psutil.Process) -> bool:
    """Whether it has made its threads, and listens."""
    return worker.num_threads() > 1 and bool(worker.net_connections("tcp"))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def each(worker: psutil.Process, server: Server, ask) -> httpx.Response:
    """The answer of this one: the others are stopped meanwhile, so that they accept nothing."""
    others = [one for one in workers(server) if one.pid != worker.pid]
    for one in others:
        one.suspend()
    try:
        with httpx.Client(base_url=server.url, timeout=120) as http:
            return ask(http)
    finally:
        for one in others:
            one.resume()


def test_pages__are_there_without_the_demo(several: Server) -> None:
    page = httpx.get(several.url + "/", timeout=120).text
    assert 'href="browser/"' in page
    assert 'href="ui/"' not in page
    assert httpx.get(several.url + "/browser/", timeout=120).status_code == 200
    refused = httpx.get(several.url + "/ui/", timeout=120)
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_path")


def test_workers__know_each_others_galleries_and_heads(several: Server, colour_photos: dict[str, Path]) -> None:
    first, second = workers(several)
    red = {"image": colour_photos["red"].read_bytes()}
    fit = [(label, (label, path.read_bytes())) for label, path in colour_photos.items()]
    items = "/v1/galleries/shared/items?create=true"
    assert each(first, several, lambda http: http.post(items, files=red, data={"id": "a"})).status_code == 200
    assert each(first, several, lambda http: http.post("/v1/heads/shared", files=fit)).status_code == 201
    found = each(second, several, lambda http: http.post("/v1/galleries/shared/search", files=red)).json()
    assert [hit["id"] for hit in found["hits"][0]] == ["a"]
    named = each(second, several, lambda http: http.post("/v1/classify?head=shared&top=1", files=red)).json()
    assert named["predictions"][0][0]["label"] == "red"
    assert each(second, several, lambda http: http.delete("/v1/galleries/shared")).status_code == 204
    assert each(first, several, lambda http: http.get("/v1/galleries/shared")).status_code == 404


def test_workers__are_counted_together(several: Server) -> None:
    def asked() -> float:
        text = httpx.get(several.url + "/metrics", timeout=120).text
        line = next(
            line for line in text.splitlines() if line.startswith("leap_zoo_requests_total") and '"/v1/models"' in line
        )
        return float(line.rpartition(" ")[2])

    for worker in workers(several):
        each(worker, several, lambda http: http.get("/v1/models"))
    before = asked()
    for worker in workers(several):
        each(worker, several, lambda http: http.get("/v1/models"))
    assert asked() == before + 2


def test_worker__killed_leaves_the_other_to_answer(several: Server) -> None:
    worker = workers(several)[0]
    worker.kill()
    worker.wait(60)
    assert httpx.get(several.url + "/v1/models", timeout=120).status_code == 200
    wait_for(lambda: len(workers(several)) == 2)
    several.terminate(seconds=300)
    with pytest.raises(httpx.TransportError):
        httpx.get(several.url + "/livez", timeout=60)
