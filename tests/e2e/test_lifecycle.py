"""A server that was told of nothing, and a visitor of whom it does not know."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from leap_zoo.store import BUNDLED, default_model


def test_page__an_unknown_visitor_leaves_no_traceback(server) -> None:
    url = server.url + "/ui/gradio_api/queue/data?session_hash=nobody"
    assert "session_not_found" in httpx.get(url, timeout=60).text
    assert "session_hash" not in server.log.read_text()
    assert "response already started" not in server.log.read_text()


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
