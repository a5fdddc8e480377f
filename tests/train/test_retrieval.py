"""Retrieval against scikit-learn's average precision; the revisited protocol against a ranking worked out by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from train.errors import TrainError
from train.evaluate.protocols import retrieve, retrieve_listed
from train.evaluate.revisited import SETUPS, GroundTruth, Query, average_precision, rank, read_ground_truth


def features(count: int, seed: int) -> torch.Tensor:
    """Random features (count, 5)."""
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(st.integers(4, 30), st.integers(1, 6), st.integers(0, 10**6))
def test_retrieve__average_precision_is_scikit_learns(size: int, asked: int, seed: int) -> None:
    gallery, queries = features(size, seed), features(asked, seed + 1)
    labels = torch.arange(size) % 3
    wanted = torch.arange(asked) % 3
    found = retrieve(gallery, labels, queries, wanted)
    unit = torch.nn.functional.normalize
    similarity = unit(queries, dim=1) @ unit(gallery, dim=1).T
    expected = [average_precision_score(labels == want, row) for want, row in zip(wanted, similarity, strict=True)]
    assert found[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert found[1].tolist() == (labels[similarity.argmax(1)] == wanted).double().tolist()


def test_retrieve__of_the_gallery_itself_leaves_each_photo_out_of_its_own_ranking() -> None:
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 1, 0, 1])  # the nearest other photo is always of the wrong class
    own = retrieve(gallery, labels, gallery, labels, same=torch.arange(4))
    assert own[1].tolist() == [0, 0, 0, 0]
    assert own[0].tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 3, 1 / 2])
    assert retrieve(gallery, labels, gallery, labels)[1].tolist() == [1, 1, 1, 1]


def test_retrieve__leaves_out_queries_that_have_no_answer() -> None:
    found = retrieve(features(4, 0), torch.tensor([0, 0, 1, 1]), features(3, 1), torch.tensor([0, 7, 1]))
    assert len(found[0]) == len(found[1]) == 2


def test_retrieve_listed__agrees_with_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries = features(300, 0), features(70, 1)
    labels, asked = torch.arange(300) % 7, torch.arange(70) % 5
    answers = [(labels == want).nonzero().flatten().tolist() for want in asked]
    expected = retrieve(gallery, labels, queries, asked)
    monkeypatch.setattr("train.evaluate.protocols.SIMILARITIES", 300 * 32)  # three blocks of queries
    found = retrieve_listed(gallery, queries, answers)
    assert all(map(torch.equal, found, expected))


def test_retrieve__of_nothing() -> None:
    none, labels = torch.empty(0, 5), torch.empty(0, dtype=torch.long)
    assert len(retrieve(features(4, 0), torch.arange(4), none, labels)[0]) == 0
    assert len(retrieve(none, labels, features(3, 0), torch.arange(3))[0]) == 0


def test_average_precision__by_the_trapezoid_rule() -> None:
    # Right at ranks 0 and 2 (of 2): (1 + 1)/2/2 for the first; before the second precision is 1/2, at it 2/3.
    assert average_precision(torch.tensor([0, 2]), 2) == pytest.approx((1 + 1) / 4 + (1 / 2 + 2 / 3) / 4)
    # Right at rank 1 only: before it 0/1, at it 1/2.
    assert average_precision(torch.tensor([1]), 1) == pytest.approx((0 + 1 / 2) / 2)
    assert average_precision(torch.arange(7), 7) == pytest.approx(1)


# One query at angle 0; gallery photos at 10, 20, ... degrees, so that the ranking is 0, 1, 2, 3, 4, 5.
ANGLES = torch.deg2rad(torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]))
GALLERY = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
QUERY = torch.tensor([[1.0, 0.0]])
TRUTH = GroundTruth(
    gallery=[f"photo_{index}" for index in range(6)],
    queries=[Query(name="q", box=(0, 0, 1, 1), easy=[1, 5], hard=[3], junk=[0])],
)


@pytest.mark.parametrize(
    ("name", "expected", "precision"),
    [
        # easy: 0 (junk) and 3 (hard) go; left 1 2 4 5, right at ranks 0 and 3 of 2.
        ("easy", (1 + 1) / 4 + (1 / 3 + 2 / 4) / 4, [1, 2 / 4, 2 / 4]),
        # medium: 0 goes; left 1 2 3 4 5, right at ranks 0, 2, 4 of 3.
        ("medium", (1 + 1) / 6 + (1 / 2 + 2 / 3) / 6 + (2 / 4 + 3 / 5) / 6, [1, 3 / 5, 3 / 5]),
        # hard: 0, 1, 5 go; left 2 3 4, right at rank 1 of 1; precision at 5 and 10 is over the first two.
        ("hard", (0 + 1 / 2) / 2, [0, 1 / 2, 1 / 2]),
    ],
)
def test_rank__is_the_hand_calculation(name: str, expected: float, precision: list[float]) -> None:
    precisions, at = rank(GALLERY, QUERY, TRUTH, name)
    assert precisions.tolist() == pytest.approx([expected])
    assert at[0].tolist() == pytest.approx(precision)


def test_rank__leaves_out_queries_without_an_answer() -> None:
    easy = Query(name="e", box=(0, 0, 1, 1), easy=[2], hard=[], junk=[])
    truth = msgspec.structs.replace(TRUTH, queries=[*TRUTH.queries, easy])
    both = QUERY.repeat(2, 1)
    counts = [len(rank(GALLERY, both, truth, setup)[0]) for setup in SETUPS]
    assert counts == [2, 2, 1]


def test_ground_truth__is_json_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "roxford5k.json"
    path.write_bytes(msgspec.json.encode(TRUTH))
    assert read_ground_truth(path) == TRUTH
    path.write_text(path.read_text().replace("[1,5]", "[1,6]"))
    with pytest.raises(TrainError, match="behind the gallery's 6"):
        read_ground_truth(path)
    path.write_bytes(msgspec.json.encode(TRUTH).replace(b'"junk":[0]', b'"junk":[5]'))
    with pytest.raises(TrainError, match="names a photo twice"):
        read_ground_truth(path)
    path.write_text('{"gallery": ["a"], "queries": [{"name": "a", "bbx": [0, 0, 1, 1]}]}')
    with pytest.raises(TrainError, match="bbx"):
        read_ground_truth(path)
    pickled = tmp_path / "gnd_roxford5k.pkl"
    pickled.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(TrainError, match="never opened"):
        read_ground_truth(pickled)
