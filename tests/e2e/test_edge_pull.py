"""The way to a device: a checkout's own service, and an environment that has the edge package alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import leap_zoo
from leap_zoo.device import int8_saturates

ROOT = Path(__file__).parents[2]
# Without these instructions sums in int8 saturate, and scores differ from the golden ones by more than is tolerated.
SHIPPED = [card.id for card in leap_zoo.models(ROOT / "zoo")]


@pytest.fixture(scope="module")
def edge(edge_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run `leap-zoo` in a new environment with nothing but the edge package; what it prints."""
    home = tmp_path_factory.mktemp("home")

    def run(*words: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEAP_ZOO_", "PYTHON"))}
        kept |= {"LEAP_ZOO_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}  # the environment is weighed, too
        command = [str(edge_python.with_name("leap-zoo")), *words]
        done = subprocess.run(command, capture_output=True, text=True, env=kept, cwd=home)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("model", SHIPPED)
def test_device__pulls_a_student_from_the_service_and_verifies_it(
    edge: Callable[..., str], bundled_server, model: str
) -> None:
    url = bundled_server.url + "/zoo"
    pulled = json.loads(edge("pull", model, "--from", url, "--json"))
    assert pulled["revision"] == leap_zoo.load(model, zoo=ROOT / "zoo").card.revision
    photo, head = str(ROOT / "docs" / "images" / "golf-ball.jpg"), leap_zoo.load(model, zoo=ROOT / "zoo").heads[0]
    answer = json.loads(edge("classify", photo, "--model", model, "--head", head, "--json"))
    assert json.dumps(answer).count("golf ball") >= 1
    if not int8_saturates():
        report = json.loads(edge("verify", model, "--json"))
        assert report["ok"] is True
        assert [artifact["ok"] for artifact in report["artifacts"] if artifact["file"] == "model_int8.onnx"] == [True]
