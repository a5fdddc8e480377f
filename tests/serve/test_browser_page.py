"""/browser: its files and no others; and how onnxruntime-web gets there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serve.app import PageFiles, answer_errors

ROOT = Path(__file__).parents[2]
WASM = "ort-wasm-simd-threaded.wasm.gz"
NPM = """#!/bin/sh
mkdir -p "$3/node_modules/onnxruntime-web/dist"
cd "$3/node_modules/onnxruntime-web/dist"
echo other > ort.wasm.bundle.min.mjs
echo other > ort-wasm-simd-threaded.wasm
"""


@pytest.fixture
def runtime(tmp_path: Path) -> TestClient:
    app = FastAPI()
    app.mount("/browser/runtime", PageFiles(tmp_path / "runtime"))
    app.mount("/browser", PageFiles(ROOT / "serve" / "browser" / "page"))
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
    ["none.js", "../package.json", "..%2fpackage.json", "runtime/..%2f..%2fkeys.py", "runtime/x", "runtime/", "x%00"],
)
def test_page__other_paths_are_not_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/browser/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_path")


@pytest.mark.parametrize("wanted", ["bytes=0-9", "bytes=-0", "bytes=99999999-", "bytes=a-b", "bytes=", "lines=1-2"])
@pytest.mark.parametrize("path", ["/browser/", "/browser/page.css", "/favicon.ico"])
def test_page__is_sent_whole_whatever_range_is_asked_for(client: TestClient, path: str, wanted: str) -> None:
    answer = client.get(path, headers={"range": wanted})
    assert (answer.status_code, answer.content) == (200, client.get(path).content)


def test_runtime__is_served_once_it_is_there(runtime: TestClient, tmp_path: Path) -> None:
    assert runtime.get(f"/browser/runtime/{WASM}").status_code == 404
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / WASM).write_bytes(b"{}")
    assert runtime.get(f"/browser/runtime/{WASM}").content == b"{}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_runtime__of_another_digest_is_not_kept(tmp_path: Path) -> None:
    """npm, which here fetches other files, is the only thing that is not ours."""
    npm = tmp_path / "npm"
    npm.write_text(NPM)
    npm.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    folder = tmp_path / "runtime"
    made = subprocess.run(["make", "browser", f"RUNTIME={folder}"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert made.returncode != 0
    assert "ort.wasm.bundle.min.mjs: FAILED" in made.stdout + made.stderr
    assert not list(folder.glob("ort*"))
