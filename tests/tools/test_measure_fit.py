"""How heads of one's own are measured: draws, chance, and what cross-validation claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("timm", reason="needs the extra: pip install leap-zoo[train]")

import torch
from torch.nn import functional

from export.doubt import calibration_error
from tools.measure_fit import main, own_classes
from train.errors import TrainError
from train.research.results import read_results


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.measure_fit.CLASSES", (2,))
    monkeypatch.setattr("tools.measure_fit.DRAWS", 6)


def clouds(per_class: int, classes: int, seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (N, 16) around one centre per class, and labels."""
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(classes).repeat_interleave(per_class)
    return centres[labels] + noise * torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(seed)), labels


def test_own_classes__more_photos_are_better_and_claims_are_near() -> None:
    train, test = clouds(12, 8, 0, 1.5), clouds(100, 8, 1, 1.5)
    two, ten = (own_classes(*train, *test, classes=6, shots=shots) for shots in (2, 10))
    assert two["accuracy"].mean() < ten["accuracy"].mean()
    assert abs((ten["cross-validated"] - ten["accuracy"]).mean()) < 0.15
    assert abs((ten["accuracy of logistic regression"] - ten["accuracy"]).mean()) < 0.1
    assert set(ten["interval holds"].tolist()) <= {0.0, 1.0}
    assert ten["accuracy"].shape == (6,)
    assert ten["accuracy"].std() > 0  # every draw has other classes and photos


def test_own_classes__distant_photos_are_unsure() -> None:
    train, test = clouds(12, 8, 0, 0.5), clouds(50, 8, 1, 0.5)
    far = -functional.normalize(test[0].mean(0, keepdim=True) + 0 * test[0], dim=1).numpy()
    found = own_classes(*train, *test, {"far": far}, classes=4, shots=10)
    assert found["not sure of far"].mean() > 0.9
    assert found["not sure of other classes"].mean() > found["not sure of the classes"].mean() + 0.3
    assert found["not sure of the classes"].mean() < 0.15


def test_own_classes__one_photo_per_class_claims_nothing() -> None:
    found = own_classes(*clouds(3, 5, 0, 0.1), *clouds(4, 5, 1, 0.1), classes=6, shots=1)
    assert found["accuracy"].min() > 0.9
    assert "cross-validated" not in found


def test_own_classes__same_seed_same_figures() -> None:
    train, test = clouds(5, 4, 0, 1.5), clouds(20, 4, 1, 1.5)
    first, second, other = (own_classes(*train, *test, classes=6, shots=3, seed=seed)["accuracy"] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_own_classes__need_classes_in_common() -> None:
    vectors, labels = clouds(3, 4, 0, 0.1)
    with pytest.raises(TrainError, match="two classes in common"):
        own_classes(vectors, labels, vectors, labels + 3, classes=2, shots=1)


def test_calibration_error__is_the_gap_in_each_bin() -> None:
    sure, right = np.array([0.95, 0.95, 0.55, 0.55], np.float32), np.array([True, True, True, False])
    assert calibration_error(sure, right, bins=10) == pytest.approx((2 * 0.05 + 2 * 0.05) / 4, abs=1e-6)
    assert calibration_error(np.ones(4, np.float32), np.zeros(4, bool)) == 1


def test_command__writes_a_row_per_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.measure_fit.SHOTS", (1, 2))
    monkeypatch.setattr("tools.measure_fit.DRAWN", 4)
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("light", "dark"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(3):
                pixels = random.integers(0, 100, (40, 40, 3), dtype=np.uint8) + 150 * (label == "light")
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / label / f"{number}.png")
    words = ["leap-nano", "drawn", str(tmp_path / "train"), str(tmp_path / "test"), "--out", str(tmp_path / "fit.csv")]
    words += ["--cache", str(tmp_path / "cache"), "--store", str(tmp_path / "store")]
    assert main(words) == 0
    rows = {row.metric: row for row in read_results(tmp_path / "fit.csv")}
    figures = ["accuracy", "accuracy of logistic regression", "mean score", "calibration error"]
    judged = [
        "cross-validated",
        "interval holds",
        *(f"not sure of {what}" for what in ("the classes", "noise", "text")),
    ]
    expected = {f"fit, 2 classes, {each} each, {figure}" for each in (1, 2) for figure in figures}
    expected |= {f"fit, 2 classes, 2 each, {figure}" for figure in judged}
    assert set(rows) == {f"{figure}, {kind}" for figure in expected for kind in ("embedding", "teacher")}
    assert rows["fit, 2 classes, 1 each, accuracy, embedding"].value > 0.9
    assert rows["fit, 2 classes, 1 each, accuracy, embedding"].n == 6
    assert main([*words[:2], "nowhere", *words[3:]]) == 2
