"""How heads of one's own are measured: draws, chance, and what cross-validation claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("timm", reason="needs the extra: pip install leap-zoo[train]")

import torch

from tools.measure_fit import main, own_classes
from train.errors import TrainError
from train.research.results import read_results


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.measure_fit.CLASSES", 6)
    monkeypatch.setattr("tools.measure_fit.DRAWS", 6)


def clouds(per_class: int, classes: int, seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (N, 16) around one centre per class, and labels."""
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(classes).repeat_interleave(per_class)
    return centres[labels] + noise * torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(seed)), labels


def test_own_classes__more_photos_are_better_and_claims_are_near() -> None:
    train, test = clouds(12, 8, 0, 1.5), clouds(100, 8, 1, 1.5)
    (two, _, _), (ten, validated, holds) = (own_classes(*train, *test, shots=shots) for shots in (2, 10))
    assert two.mean() < ten.mean()
    assert abs((validated - ten).mean()) < 0.15
    assert set(holds.tolist()) <= {0.0, 1.0}
    assert ten.shape == (6,)
    assert ten.std() > 0  # every draw has other classes and photos


def test_own_classes__one_photo_per_class_claims_nothing() -> None:
    accuracy, validated, _ = own_classes(*clouds(3, 5, 0, 0.1), *clouds(4, 5, 1, 0.1), shots=1)
    assert accuracy.min() > 0.9
    assert validated.isnan().all()


def test_own_classes__same_seed_same_figures() -> None:
    train, test = clouds(5, 4, 0, 1.5), clouds(20, 4, 1, 1.5)
    first, second, other = (own_classes(*train, *test, shots=3, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_own_classes__need_classes_in_common() -> None:
    vectors, labels = clouds(3, 4, 0, 0.1)
    with pytest.raises(TrainError, match="two classes in common"):
        own_classes(vectors, labels, vectors, labels + 3, shots=1)


def test_command__writes_a_row_per_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.measure_fit.SHOTS", (1, 2))
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
    figures = ["1 per class, accuracy", "2 per class, accuracy", "2 per class, cross-validated"]
    figures += ["2 per class, interval holds"]
    assert set(rows) == {f"fit, {figure}, {kind}" for figure in figures for kind in ("embedding", "teacher")}
    assert (rows["fit, 1 per class, accuracy, embedding"].value > 0.9, rows[next(iter(rows))].n) == (True, 6)
    assert main([*words[:2], "nowhere", *words[3:]]) == 2
