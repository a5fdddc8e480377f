"""What the figures mean: k-NN by brute force, a probe that can be folded, intervals from the literature."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leap_zoo.intervals import wilson
from train.errors import TrainError
from train.evaluate.features import extract
from train.evaluate.protocols import knn, linear_probe, mean, retrieve, share

THREE = ["ant", "bee", "cat"]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 30), st.integers(1, 12), st.integers(1, 9), st.integers(1, 5))
def test_knn__is_the_weighted_vote_of_brute_force(seed: int, gallery: int, queries: int, k: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    known = torch.randn(gallery, 5, generator=generator)
    labels = torch.randint(0, classes, (gallery,), generator=generator)
    asked = torch.randn(queries, 5, generator=generator)
    found = knn(known, labels, asked, k=k)
    for query, answer in zip(asked.tolist(), found.tolist(), strict=True):
        cosines = []
        for row, label in zip(known.tolist(), labels.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(query, row, strict=True))
            cosines.append((dot / math.hypot(*query) / math.hypot(*row), label))
        votes = dict.fromkeys(range(classes), 0.0)
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            votes[label] += math.exp(cosine / 0.07)
        assert votes[answer] == pytest.approx(max(votes.values()), rel=1e-3)


def test_knn__weighs_near_neighbors_more_than_many_far_ones() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert knn(gallery, torch.tensor([0, 1, 1]), torch.tensor([[5.0, 1.0]]), k=3).tolist() == [0]


def test_knn__compares_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    known, asked = torch.randn(40, 5, generator=generator), torch.randn(25, 5, generator=generator)
    labels = torch.randint(0, 4, (40,), generator=generator)
    whole = knn(known, labels, asked, k=7)
    monkeypatch.setattr("train.evaluate.protocols.SIMILARITIES", 40 * 10)  # three blocks of queries
    assert torch.equal(knn(known, labels, asked, k=7), whole)


def test_knn__of_nothing_and_of_nan() -> None:
    some, labels = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    assert knn(some, labels, torch.empty(0, 3), k=2).tolist() == []
    with pytest.raises(TrainError, match="no photos to find"):
        knn(torch.empty(0, 3), torch.empty(0, dtype=torch.long), some, k=2)
    for gallery, queries in ((some, some * torch.nan), (some * torch.nan, some)):
        with pytest.raises(TrainError, match="not finite"):
            knn(gallery, labels, queries, k=2)
        with pytest.raises(TrainError, match="not finite"):
            retrieve(gallery, labels, queries, labels)


def separable(count: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes that differ in one small, shifted channel among loud ones (N, 4)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    features = torch.randn(count, 4, generator=generator) * torch.tensor([50.0, 1e-3, 5.0, 1.0])
    features[:, 1] = 7 + 0.01 * labels + 1e-3 * torch.randn(count, generator=generator)
    return features, labels


def test_probe__separates_what_is_separable_whatever_the_channels_scale() -> None:
    features, labels = separable()
    probe = linear_probe(features, labels, THREE, epochs=40)
    assert (probe.classify(features) == labels).double().mean() > 0.97
    assert (probe.selection > 0.8, probe.rate > 0) == (True, True)


def test_probe__folds_its_standardisation_into_the_weights() -> None:
    """The same data in other units gives the same logits: the probe takes raw features."""
    features, labels = separable()
    scale, shift = torch.tensor([2.0, 10.0, 0.5, 3.0]), torch.tensor([1.0, -4.0, 2.0, 0.0])
    one = linear_probe(features, labels, THREE, epochs=5)
    other = linear_probe(features * scale + shift, labels, THREE, epochs=5)
    logits = (features * scale + shift) @ other.weight.T + other.bias
    torch.testing.assert_close(logits, features @ one.weight.T + one.bias, atol=0.1, rtol=0.05)


def test_probe__of_noise_is_no_better_than_chance_on_other_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(400, 8, generator=generator), torch.arange(400) % 4
    probe = linear_probe(features[:200], labels[:200], "abcd", epochs=10)
    assert (probe.classify(features[200:]) == labels[200:]).double().mean() < 0.4


def test_probe__is_the_same_for_the_same_seed() -> None:
    features, labels = separable()
    one, two = (linear_probe(features, labels, THREE, epochs=3, seed=4) for _ in range(2))
    assert torch.equal(one.weight, two.weight)


def test_probe__classifies_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = separable()
    probe = linear_probe(features, labels, THREE, epochs=3)
    whole = probe.classify(features)
    monkeypatch.setattr("train.evaluate.protocols.ROWS", 50)
    assert torch.equal(probe.classify(features), whole)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 1, 2, 0, 1, 2], ["ant", "bee", "cat"], "too few for a probe"),
        ([0] * 30 + [1], ["ant", "bee"], "class bee has 1 photos"),
        ([0] * 30 + [1] * 3, ["ant", "bee", "cat"], "class cat has 0 photos"),
        ([0] * 40, ["ant"], "all of one class, ant"),  # which it would always get right
    ],
)
def test_probe__refuses_photos_it_cannot_learn_from(labels: list[int], classes: list[str], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        linear_probe(torch.randn(len(labels), 2), torch.tensor(labels), classes)


def test_probe__refuses_features_that_are_not_finite() -> None:
    features, labels = separable()
    features[7, 2] = torch.inf
    with pytest.raises(TrainError, match="not finite"):
        linear_probe(features, labels, THREE)


def test_extract__keeps_order_over_batches() -> None:
    pixels = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 2, 2, 3).numpy()
    sizes = []

    def features(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes.append(len(batch))
        return {"mean": batch.float().mean((1, 2, 3))[:, None].bfloat16()}

    found = extract(features, pixels, "photos", batch=3)["mean"]
    assert sizes == [3, 3, 1]
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == list(range(7))


def test_extract__of_no_photos() -> None:
    with pytest.raises(TrainError, match="val: there are no photos"):
        extract(lambda batch: {}, torch.empty(0, 2, 2, 3, dtype=torch.uint8).numpy(), "val")


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson__is_the_published_interval(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right / n, n) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson__contains_the_share_within_0_and_1(counts: tuple[int, int]) -> None:
    right, n = counts
    low, high = wilson(right / n, n)
    assert 0 <= low <= right / n + 1e-12
    assert right / n - 1e-12 <= high <= 1


def test_wilson__of_nothing() -> None:
    with pytest.raises(ValueError, match="a share of 0 has no interval"):
        wilson(0, 0)


def test_scores__of_nothing() -> None:
    with pytest.raises(TrainError, match="no photos"):
        share("top-1", "drawn", "val", torch.empty(0))
    with pytest.raises(TrainError, match="nothing to average"):
        mean("mAP", "drawn", "val", torch.empty(0))


def test_share__of_right_answers() -> None:
    figure = share("top-1", "drawn", "val", torch.tensor([True, True, False, True]))
    assert (figure.value, figure.n, figure.interval) == (0.75, 4, wilson(0.75, 4))
