"""`python -m serve.demo`, and what the page makes of a server that has less."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import leap_zoo
from serve.demo.backend import Backend
from serve.demo.classify_tab import _show
from serve.demo.visitor import Visitor
from serve.engine import Engine, Models

ROOT = Path(__file__).parents[3]


def test_standalone__ends_with_one_line_when_there_is_no_such_model(tiny_zoo: Path) -> None:
    env = os.environ | {"LEAP_ZOO_URL": str(tiny_zoo), "LEAP_ZOO_SERVE_MODEL": "leap-nanno"}
    run = subprocess.run([sys.executable, "-m", "serve.demo"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("serve.demo: unknown model")
    assert "Traceback" not in run.stderr


def test_classify__shows_one_file_where_only_one_is_loaded(tiny_zoo: Path, colour_photos: dict[str, Path]) -> None:
    default = leap_zoo.load(leap_zoo.models(tiny_zoo)[0].id, zoo=tiny_zoo, threads=1)
    backend = Backend(Engine(Models(default, zoo=tiny_zoo), threads=1))
    assert backend.other is None
    html = asyncio.run(_show(backend, str(colour_photos["red"]), "colours", Visitor()))
    assert "red" in html
    assert "fp32" not in html
    assert 'role="alert"' not in html
