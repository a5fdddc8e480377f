"""What importing the service does, and does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve import service

ROOT = Path(__file__).parents[2]


def run(code: str, **environ: str) -> str:
    """Run `code` in a fresh interpreter at the root. Returns what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "BENTOML_DO_NOT_TRACK"} | environ
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True, text=True, timeout=280
    ).stdout


def test_import__silences_usage_reports_and_loads_neither_model_nor_page_nor_training() -> None:
    """And the site without the demo never loads Gradio."""
    code = """
import sys
from bentoml._internal.utils.analytics.usage_stats import do_not_track as silent
before = silent()
import serve.service
print(before, silent(), *sys.modules)
from serve.app import build_site
settings, engine, stores = serve.service.running()
build_site(engine, stores, settings)
print("gradio" in sys.modules)
"""
    imported, built = run(code, LEAP_ZOO_SERVE_UI="off").splitlines()
    before, after, *loaded = imported.split()
    assert (before, after) == ("False", "True")
    assert not set(loaded) & {"gradio", "onnxruntime", "torch", "train", "export"}
    assert built == "False"


def test_start__a_missing_model_is_refused_by_name(tiny_zoo: Path) -> None:
    """And whoever wants to report usage still may."""
    code = """
from bentoml._internal.utils.analytics.usage_stats import do_not_track as silent
from serve.service import LeapZoo
print(silent())
try:
    LeapZoo.inner.refuse_to_start()
except SystemExit as ended:
    print(ended)
"""
    given = {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": "leap-tiny-tset", "BENTOML_DO_NOT_TRACK": "false"}
    silent, said = run(code, **given).splitlines()
    assert silent == "False"
    assert said.startswith("Cannot serve: ")
    assert "did you mean 'leap-tiny-test'" in said


def test_workers__pause_after_each_connection_so_that_others_accept_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two workers accepted nearly all connections of a burst, and they were as fast as one."""
    order: list[object] = []
    monkeypatch.setattr(HttpToolsProtocol, "connection_made", lambda self, transport: order.append(transport))
    monkeypatch.setattr(service.time, "sleep", lambda seconds: order.append("pause"))
    service.share_connections()
    HttpToolsProtocol.connection_made(object(), "connection")
    assert order == ["connection", "pause"]
