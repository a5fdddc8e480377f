"""The published files on the oldest ONNX Runtime that installs on this Python: they load, and answer as promised."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from leap_zoo.card import ModelCard
from leap_zoo.device import instruction_sets
from leap_zoo.store import BUNDLED, models
from leap_zoo.verify import tolerance
from tools import check_limits

OLDEST = "1.15.0"  # the first with wheels for Python 3.11


@pytest.fixture(scope="session")
def old_python(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with the old runtime; made once, then kept in pytest's cache."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip(f"ONNX Runtime {OLDEST} is the oldest for Python 3.11 only")
    try:
        return check_limits.old_environment(request.config.cache.mkdir("old-onnxruntime") / OLDEST, OLDEST)
    except check_limits.CannotCheck as error:
        pytest.skip(f"ONNX Runtime {OLDEST} cannot be installed: {error}")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_old_runtime__gives_the_golden_answers(
    old_python: Path, published: Path, card: ModelCard, precision: str
) -> None:
    _check(old_python, published, card, precision)


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
    with np.load(zoo / card.id / "golden.npz", allow_pickle=False) as arrays:
        golden = {name: arrays[name] for name in arrays.files}
    limit = tolerance(card.golden, precision, instruction_sets())
    for count in (len(golden["image"]), 1, 2):
        version, found = check_limits.in_old_runtime(python, zoo / card.id / artifact.file, golden["image"][:count])
        assert version == OLDEST
        expected = {tensor.name: golden[f"{artifact.file}/{tensor.name}"][:count] for tensor in card.outputs}
        assert check_limits.worst(found, expected) <= limit
