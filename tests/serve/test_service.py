"""What importing the service does, and does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code: str, **environ: str) -> str:
    """Run `code` in a fresh interpreter at the root. Returns what it printed."""
    env = {name: value for name, value in os.environ.items() if name != "BENTOML_DO_NOT_TRACK"} | environ
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, check=True, capture_output=True, text=True, timeout=280
    ).stdout


def test_import__silences_usage_reports_and_loads_neither_model_nor_page_nor_training() -> None:
    code = (
        "import sys; from bentoml._internal.utils.analytics.usage_stats import do_not_track as silent;"
        "before = silent(); import serve.service; print(before, silent(), *sys.modules)"
    )
    before, after, *loaded = run(code).split()
    assert (before, after) == ("False", "True")
    assert not set(loaded) & {"gradio", "onnxruntime", "torch", "train", "export"}
    assert run(code, BENTOML_DO_NOT_TRACK="false").split()[:2] == ["False", "False"]  # who wants to report still may


def test_site__without_the_demo_loads_no_gradio() -> None:
    code = (
        "import sys; from serve.app import build_site; from serve.service import running;"
        "settings, engine, stores = running(); build_site(engine, stores, settings); print('gradio' in sys.modules)"
    )
    assert run(code, LEAP_ZOO_SERVE_UI="off").split() == ["False"]
