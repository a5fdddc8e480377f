"""How the server starts and stops."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from leap_zoo.store import BUNDLED, default_model

TINY = "leap-tiny-test"


def test_page__an_unknown_visitor_leaves_no_traceback(server) -> None:
    url = server.url + "/ui/gradio_api/queue/data?session_hash=nobody"
    assert "session_not_found" in httpx.get(url, timeout=60).text
    assert "session_hash" not in server.log.read_text()
    assert "response already started" not in server.log.read_text()


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGHUP is not ignored, as it is for whatever nohup starts: a server inherits that, and lives on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard")
def test_kill__of_the_supervisor_ends_its_worker_and_frees_the_port(start, tiny_zoo: Path) -> None:
    """And the end of its terminal ends the next server on that port."""
    variables = {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": TINY}
    with start(**variables) as first:
        (worker,) = psutil.Process(first.process.pid).children()
        first.process.kill()
        first.process.wait()
        try:
            worker.wait(120)
        except psutil.TimeoutExpired:
            worker.kill()
            pytest.fail(first.log.read_text()[-2000:])
        with start(port=first.port, **variables) as second:
            assert httpx.get(second.url + "/v1/models", timeout=60).status_code == 200
            assert "in use" not in second.log.read_text()
            second.process.send_signal(signal.SIGHUP)
            second.process.wait(120)
            with pytest.raises(httpx.TransportError):
                httpx.get(second.url + "/livez", timeout=60)


def ends_by_itself(start, **variables: str) -> str:
    """Start a server that must not come up. Returns what it said."""
    with start(wait=False, **variables) as server:
        try:
            status = server.process.wait(120)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the server keeps running:\n{server.log.read_text()[-2000:]}")
        assert status == 1
        return server.log.read_text()


def test_start__a_missing_model_ends_it_with_its_name(start, tiny_zoo: Path) -> None:
    said = ends_by_itself(start, LEAP_ZOO_URL=str(tiny_zoo), LEAP_ZOO_SERVE_MODEL="leap-tiny-tset")
    assert "Cannot serve: " in said
    assert "'leap-tiny-tset'" in said
    assert f"did you mean {TINY!r}" in said
    assert "Traceback" not in said


@pytest.mark.skipif(not (BUNDLED / "index.json").is_file(), reason="no student is bundled in this checkout")
def test_start__without_any_variable_serves_the_bundled_student(bundled_server, sample_photos: list[Path]) -> None:
    url = bundled_server.url
    body = httpx.post(url + "/classify", files={"image": sample_photos[0].open("rb")}, timeout=60).json()
    assert (body["model"], body["head"], body["precision"]) == (default_model(), "imagenet1k", "int8")
    assert len(body["predictions"]) == 5
    start_of_call = time.monotonic()
    vector = httpx.post(url + "/embed", files={"image": sample_photos[1].open("rb")}, timeout=60).json()
    assert vector["milliseconds"] < (time.monotonic() - start_of_call) * 1000
    assert sum(x * x for x in vector["embedding"]) == pytest.approx(1, abs=1e-3)
