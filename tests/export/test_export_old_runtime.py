"""The published files on the oldest ONNX Runtime that installs on this Python: they load, and answer as promised."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leap_zoo.card import ModelCard
from leap_zoo.device import instruction_sets, int8_saturates
from leap_zoo.store import BUNDLED, models
from leap_zoo.verify import tolerance

OLDEST = "1.15.0"  # the first with wheels for Python 3.11
PACKAGES = (f"onnxruntime=={OLDEST}", "numpy<2")  # it was built against numpy 1

# Plain ONNX Runtime and numpy: leap_zoo does not run in that environment.
CHECK = """
import json, sys
import numpy as np
import onnxruntime

folder, name = sys.argv[1:]
onnxruntime.set_default_logger_severity(4)
session = onnxruntime.InferenceSession(f"{folder}/{name}", providers=["CPUExecutionProvider"])
golden = np.load(f"{folder}/golden.npz", allow_pickle=False)
outputs = [node.name for node in session.get_outputs()]

def scores(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)

def worst(rows):
    differences = {}
    for output, found in zip(outputs, session.run(outputs, {"image": golden["image"][rows]})):
        expected = golden[f"{name}/{output}"][rows]
        if output.startswith("logits_"):
            found, expected = scores(found), scores(expected)
        differences[output] = float(np.abs(found - expected).max())
    return differences

print(json.dumps({
    "version": onnxruntime.__version__,
    "batches": [worst(slice(None)), worst(slice(0, 1)), worst(slice(0, 2))],
}))
"""


@pytest.fixture(scope="session")
def old_python(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with the old runtime; made once, then kept in pytest's cache."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip(f"ONNX Runtime {OLDEST} is the oldest for Python 3.11 only")
    home = request.config.cache.mkdir("old-onnxruntime") / OLDEST
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = home / "installed"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True, timeout=120)
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", *PACKAGES]
        try:
            found = subprocess.run(install, check=False, capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            pytest.skip(f"installing ONNX Runtime {OLDEST} took too long")
        if found.returncode:
            pytest.skip(f"ONNX Runtime {OLDEST} cannot be installed: {found.stderr.strip().splitlines()[-1:]}")
        done.touch()
    return python


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_old_runtime__gives_the_golden_answers(
    old_python: Path, published: Path, card: ModelCard, precision: str
) -> None:
    _check(old_python, published, card, precision)


@pytest.mark.skipif(
    int8_saturates(), reason="the int8 kernels of this processor saturate: `leap-zoo verify` reports it"
)
def test_old_runtime__runs_the_bundled_model(old_python: Path) -> None:
    for bundled in models(BUNDLED):
        _check(old_python, BUNDLED, bundled, "int8")


def test_card__asks_for_no_newer_runtime_than_the_one_tried_here(card: ModelCard) -> None:
    tried = tuple(int(part) for part in OLDEST.split("."))
    for artifact in card.artifacts:
        if artifact.format == "onnx":
            assert tuple(int(part) for part in artifact.minimum_runtime.split(".")) <= tried


def _check(python: Path, zoo: Path, card: ModelCard, precision: str) -> None:
    artifact = next(a for a in card.artifacts if (a.format, a.precision) == ("onnx", precision))
    command = [str(python), "-I", "-c", CHECK, str(zoo / card.id), artifact.file]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["version"] == OLDEST
    limit = tolerance(card.golden, precision, instruction_sets())
    for differences in report["batches"]:
        assert set(differences) == {tensor.name for tensor in card.outputs}
        assert all(difference <= limit for difference in differences.values()), differences
