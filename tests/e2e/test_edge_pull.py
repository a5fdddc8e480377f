"""The way to a device: a checkout's own service, and an environment that has the edge package alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import leap_zoo
from tools import weigh

ROOT = Path(__file__).parents[2]
SHIPPED = [card.id for card in leap_zoo.models(ROOT / "zoo")]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run `leap-zoo` in a new environment with nothing but the edge package; what it prints."""
    try:
        python = weigh.install(tmp_path_factory.mktemp("edge"))
    except weigh.Unreachable as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    home = tmp_path_factory.mktemp("home")

    def run(*words: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEAP_ZOO_", "PYTHON"))}
        command = [str(python.with_name("leap-zoo")), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env=kept | {"LEAP_ZOO_HOME": str(home)}, cwd=home
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def url(start: Callable[..., contextlib.AbstractContextManager]) -> str:
    """The zoo of a service that was told nothing."""
    with start() as server:
        yield server.url + "/zoo"


@pytest.mark.parametrize("model", SHIPPED)
def test_device__pulls_a_student_from_the_service_and_verifies_it(
    edge: Callable[..., str], url: str, model: str
) -> None:
    pulled = json.loads(edge("pull", model, "--from", url, "--json"))
    assert pulled["revision"] == leap_zoo.load(model, zoo=ROOT / "zoo").card.revision
    report = json.loads(edge("verify", model, "--json"))
    assert report["ok"] is True
    assert [artifact["ok"] for artifact in report["artifacts"] if artifact["file"] == "model_int8.onnx"] == [True]
    answer = json.loads(edge("classify", str(ROOT / "docs" / "images" / "golf-ball.jpg"), "--model", model, "--json"))
    assert json.dumps(answer).count("golf ball") >= 1
