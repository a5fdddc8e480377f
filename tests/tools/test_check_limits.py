"""tools.check_limits: what is compared, and that a place where a file fails is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leap_zoo.documents import read_card
from tools import check_limits


def test_worst__is_the_largest_and_whatever_is_missing_is_infinite() -> None:
    rows = np.array([[0.6, 0.8]], np.float32)
    expected = {"embedding": rows, "logits_a": np.array([[1.0, 3.0]], np.float32)}
    assert check_limits.worst({name: value.copy() for name, value in expected.items()}, expected) == 0
    shifted = {"embedding": rows, "logits_a": np.array([[2.0, 4.0]], np.float32)}  # the same scores
    assert check_limits.worst(shifted, expected) < 1e-6
    assert check_limits.worst({**expected, "embedding": rows + 0.25}, expected) == pytest.approx(0.25)
    assert check_limits.worst({"embedding": rows}, expected) == np.inf
    assert check_limits.worst({**expected, "embedding": rows[:, :1]}, expected) == np.inf
    assert np.isnan(check_limits.worst({**expected, "embedding": rows * np.nan}, expected))


def test_published__names_each_file_once(tiny_zoo: Path, zoo_copy: Path) -> None:
    found = [(path.name, card.id) for path, card, _ in check_limits.published([tiny_zoo, zoo_copy])]
    assert found == [("model.onnx", "leap-tiny-test"), ("model_int8.onnx", "leap-tiny-test")]


def test_check__a_row_per_place_and_the_reason_of_a_failure(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = read_card(tiny_zoo / "leap-tiny-test" / "card.json")
    path = tiny_zoo / card.id / "model.onnx"

    def ours(place: Path, model: Path, image: np.ndarray) -> tuple[str, check_limits.Outputs]:
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_outputs()]
        return "0.1", dict(zip(names, session.run(names, {"image": image}), strict=True))

    def broken(place: Path, model: Path, image: np.ndarray) -> tuple[str, check_limits.Outputs]:
        version, found = ours(place, model, image)
        return version, {name: rows + 0.5 for name, rows in found.items()}

    monkeypatch.setattr(check_limits, "in_old_runtime", ours)
    monkeypatch.setattr(check_limits, "in_web_runtime", broken)
    rows = check_limits.check(path, card, card.artifacts[0], tmp_path, tmp_path)
    assert [row["ok"] for row in rows] == [True, True, False]
    assert rows[1]["difference"] <= rows[1]["allowed"] < rows[2]["difference"]
    web = tmp_path / "absent"
    monkeypatch.undo()
    rows = check_limits.check(path, card, card.artifacts[0], tmp_path / "no-python", web)
    assert [row["ok"] for row in rows] == [True, False, False]
    assert "did not run" in rows[1]["error"]
