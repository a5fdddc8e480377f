"""/browser: its files and no others; and how onnxruntime-web gets there."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serve.app import PageFiles, answer_errors
from serve.browser import PAGE
from serve.browser.__main__ import ABOUT, KEPT, CannotFetch, fetch

NPM = """#!/bin/sh
mkdir -p node_modules/onnxruntime-web/dist
cd node_modules/onnxruntime-web
echo other > dist/ort.wasm.bundle.min.mjs
echo other > dist/ort-wasm-simd-threaded.wasm
echo '{"name": "onnxruntime-web", "version": "1.30.0", "license": "MIT"}' > package.json
"""


@pytest.fixture
def runtime(tmp_path: Path) -> TestClient:
    app = FastAPI()
    app.mount("/browser/runtime", PageFiles(tmp_path / "runtime"))
    app.mount("/browser", PageFiles(PAGE))
    answer_errors(app)
    return TestClient(app)


def test_page__is_served_and_kept_by_its_etag(client: TestClient) -> None:
    answer = client.get("/browser?model=leap-nano")
    assert answer.url.path + "?" + answer.url.query.decode() == "/browser/?model=leap-nano"
    assert answer.headers["content-type"].startswith("text/html")
    assert client.get("/browser/", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    # Gradio gives scripts the older of their two names.
    for name, kind in (("page.js", "/javascript"), ("page.css", "text/css"), ("taxi-1.jpg", "image/jpeg")):
        assert kind in client.get(f"/browser/{name}").headers["content-type"]


@pytest.mark.parametrize(
    "name",
    ["none.js", "../__main__.py", "..%2f__main__.py", "runtime/..%2f..%2fkeys.py", "runtime/x", "runtime/", "x%00"],
)
def test_page__other_paths_are_not_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/browser/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_path")


def test_runtime__is_served_once_it_is_there(runtime: TestClient, tmp_path: Path) -> None:
    assert runtime.get(f"/browser/runtime/{ABOUT}").status_code == 404
    (tmp_path / "runtime").mkdir()
    for name in (ABOUT, *KEPT.values()):
        (tmp_path / "runtime" / name).write_bytes(b"{}")
        assert runtime.get(f"/browser/runtime/{name}").content == b"{}"


def test_fetch__refuses_files_of_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(NPM)
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    with pytest.raises(CannotFetch, match=r"the sha256 of .* differs"):
        fetch(tmp_path / "runtime")
    assert not (tmp_path / "runtime").exists()


def test_fetch__says_how_to_get_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotFetch, match="install Node"):
        fetch(tmp_path / "runtime")
