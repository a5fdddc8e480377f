"""How heads of one's own are measured: draws, chance, and what cross-validation claims."""

from __future__ import annotations

import pytest
import torch

from train.errors import TrainError
from train.evaluate.own_classes import own_classes


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.evaluate.own_classes.CLASSES", 6)
    monkeypatch.setattr("train.evaluate.own_classes.DRAWS", 6)


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
