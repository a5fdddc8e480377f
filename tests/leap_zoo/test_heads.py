"""Heads of your own: the file, what it refuses, and classifying with it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import leap_zoo
from leap_zoo import CustomHead, InvalidArgument, InvalidHead, Model, UnknownHead
from leap_zoo.heads import MAX_HEAD_BYTES, CrossValidation, HeadCard, decode_head, encode_head

TINY = "leap-tiny-test"


def head_card(**changes: object) -> HeadCard:
    fields = {
        "labels": ["left", "right"],
        "photos": [3, 4],
        "kind": "prototypes",
        "strength": None,
        "scale": 8.0,
        "space": "student",
        "model": TINY,
        "revision": "1",
        "artifact": "model_int8.onnx",
        "how": "by hand",
        "solver": "none",
        "seed": 0,
        "validation": CrossValidation(accuracy=0.5, interval=(0.2, 0.8), n=7, folds=4),
    }
    return HeadCard(**fields | changes)  # type: ignore[arg-type]


def head(width: int = 8, **changes: object) -> CustomHead:
    weight = np.zeros((2, width), np.float32)
    weight[0, 0], weight[1, 0] = -1, 1
    return CustomHead(head_card(**changes), weight, np.array([0, 0.25], np.float32))


GOOD = encode_head(head())


@pytest.fixture(scope="module")
def model(tiny_zoo: Path) -> Model:
    return leap_zoo.load(TINY, zoo=tiny_zoo, threads=1)


def with_header(change: dict[str, object], numbers: bytes = b"") -> bytes:
    """A file whose header has other values, its length put right."""
    length = int.from_bytes(GOOD[:8], "little")
    header = json.dumps(json.loads(GOOD[8 : 8 + length]) | change).encode()
    return len(header).to_bytes(8, "little") + header + (numbers or GOOD[8 + length :])


def test_save__reads_back_the_same(tmp_path: Path) -> None:
    ours = head()
    assert ours.save(tmp_path / "sides.head") == tmp_path / "sides.head"
    theirs = CustomHead.load(tmp_path / "sides.head")
    assert theirs.card == ours.card
    assert np.array_equal(theirs.weight, ours.weight)
    assert np.array_equal(theirs.bias, ours.bias)
    assert [path.name for path in tmp_path.iterdir()] == ["sides.head"]
    assert encode_head(theirs) == GOOD


def test_save__is_a_safetensors_file(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors comes with the train extra")
    tensors = safetensors.load_file(head().save(tmp_path / "sides.head"))
    assert np.array_equal(tensors["weight"], head().weight)
    assert np.array_equal(tensors["bias"], head().bias)


def test_save__refuses_other_suffixes_and_absent_folders(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"must end in \.head"):
        head().save(tmp_path / "sides.npz")
    with pytest.raises(InvalidArgument, match="folder that does not exist"):
        head().save(tmp_path / "absent" / "sides.head")
    assert list(tmp_path.iterdir()) == []


def test_classify__with_the_head_or_its_file(model: Model, colour_photos: dict[str, Path], tmp_path: Path) -> None:
    path = head().save(tmp_path / "sides.head")
    photos = list(colour_photos.values())
    embeddings = model.embed(photos)
    for source in (head(), path, str(path)):
        for predictions, embedding in zip(model.classify(photos, head=source), embeddings, strict=True):
            side = 2 * embedding[0] + 0.25 > 0
            assert predictions[0].label == ("right" if side else "left")
            assert predictions[0].index == int(side)
            expected = min(1 / (1 + np.exp(-8.0 * abs(2 * embedding[0] + 0.25))), 8 / 9)  # seven photos
            assert predictions[0].score == pytest.approx(expected, abs=1e-4)
    assert model.classify(photos[0], head="brightness")[0].label in ("dark", "bright")


def test_classify__teacher_space(model: Model, colour_photos: dict[str, Path]) -> None:
    red = colour_photos["red"]
    first = model.embed(red, space="teacher")[0]
    said = model.classify(red, head=head(12, space="teacher"), top=1)[0].label
    assert said == ("right" if 2 * first + 0.25 > 0 else "left")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (head(model="leap-other"), "fitted for leap-other"),
        (head(revision="2"), "fitted for leap-tiny-test '2'"),
        (head(width=9), "embeddings of 9 numbers"),
        (head(space="teacher"), "teacher space have 12"),
    ],
)
def test_classify__head_of_another_model_is_refused(model: Model, other: CustomHead, message: str) -> None:
    with pytest.raises(InvalidHead, match=message):
        model.classify(np.zeros((40, 40, 3), np.uint8), head=other)


def test_classify__any_precision_of_the_revision_will_do(tiny_zoo: Path, colour_photos: dict[str, Path]) -> None:
    fp32 = leap_zoo.load(TINY, zoo=tiny_zoo, precision="fp32", threads=1)
    assert fp32.artifact.file != head().card.artifact
    assert fp32.classify(colour_photos["red"], head=head(), top=1)[0].label in ("left", "right")


def test_classify__a_name_is_never_a_file(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sides").write_bytes(GOOD)
    with pytest.raises(UnknownHead, match="sides"):
        model.classify(np.zeros((40, 40, 3), np.uint8), head="sides")
    with pytest.raises(InvalidHead, match="cannot be read"):
        model.classify(np.zeros((40, 40, 3), np.uint8), head="absent.head")


def test_load__path_that_is_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.head", "null\0.head"):
        with pytest.raises(InvalidHead):
            CustomHead.load(path)


def test_load__takes_paths_only(tmp_path: Path) -> None:
    """A number would be an open file of the caller's, which would be read and closed."""
    path = head().save(tmp_path / "sides.head")
    with path.open("rb") as file:
        for odd in (file.fileno(), True, None, b"sides.head", file):
            with pytest.raises(InvalidArgument, match="a path"):
                CustomHead.load(odd)  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match="a path"):
                head().save(odd)  # type: ignore[arg-type]
        assert file.read() == GOOD


def test_decode__files_of_before_doubt(model: Model) -> None:
    """What was written before there were thresholds is read, and never unsure."""
    card = json.loads(msgspec.json.encode(head_card()))
    del card["threshold"], card["validation"]["confidence"], card["validation"]["unsure"]
    old = decode_head(with_header({"__metadata__": {"leap_head": json.dumps(card)}}))
    assert old.card == head_card()
    answer = model.classify(np.zeros((40, 40, 3), np.uint8), head=old)
    assert (answer.unsure, answer.distance) == (False, None)


def test_classify__unsure_beyond_the_threshold(model: Model, colour_photos: dict[str, Path]) -> None:
    photo = colour_photos["red"]
    ours = head(threshold=0.5)
    far = float(ours.distances(model.embed(photo)[None])[0])
    for limit, unsure in ((far - 0.01, True), (far + 0.01, False)):
        answer = model.classify(photo, head=head(threshold=limit), top=1)
        assert (answer.unsure, answer.distance) == (unsure, pytest.approx(far, abs=1e-6))
        assert model.classify([photo, photo], head=head(threshold=limit))[1].unsure == unsure
    own = model.classify(photo)
    assert (own.unsure, own.distance) == (False, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b"PK\x03\x04" * 20, "truncated"),
        ((2**63).to_bytes(8, "little") + b"{}", "truncated"),
        (GOOD[:-1], "does not match"),
        (GOOD + b"\0", "does not match"),
        (GOOD + bytes(MAX_HEAD_BYTES), "MiB"),
        (with_header({"extra": 1}), "extra"),
        (with_header({"weight": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 64]}}), "does not match"),
        (with_header({"weight": {"dtype": "F32", "shape": [2, 8], "data_offsets": [8, 72]}}), "does not match"),
        (with_header({"weight": {"dtype": "F64", "shape": [2, 8], "data_offsets": [0, 64]}}), "dtype"),
        (with_header({}, np.full(18, np.nan, "<f4").tobytes()), "not finite"),
        (with_header({}, np.full(18, -1e30, "<f4").tobytes()), "too large"),
        (with_header({"__metadata__": {"leap_head": "[" * 100_000}}), "not a head"),
    ],
)
def test_decode__broken_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidHead, match=message):
        decode_head(data)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["one"], "photos": [1]},
        {"labels": ["same", "same"]},
        {"photos": [1, 2, 3]},
        {"scale": 0.0},
        {"scale": 1e300},
        {"space": "techer"},
        {"model": "../../etc"},
        {"schema": 2},
        {"validation": {"accuracy": 1.5, "interval": [0, 1], "n": 1, "folds": 2}},
        {"unheard": 1},
    ],
)
def test_decode__cards_that_break_the_schema_are_refused(change: dict[str, object]) -> None:
    card = json.loads(msgspec.json.encode(head_card())) | change
    with pytest.raises(InvalidHead, match="leap-zoo fit"):
        decode_head(with_header({"__metadata__": {"leap_head": json.dumps(card)}}))


@given(st.binary(max_size=300))
def test_decode__random_bytes_raise_only_the_documented_error(data: bytes) -> None:
    with pytest.raises(InvalidHead):
        decode_head(data)


@given(st.integers(0, len(GOOD) - 1))
def test_decode__truncation_raises_only_the_documented_error(length: int) -> None:
    with pytest.raises(InvalidHead):
        decode_head(GOOD[:length])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_decode__flipped_bytes_give_a_head_or_our_error(flips: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for position, value in flips:
        data[position] = value
    try:
        found = decode_head(bytes(data))
    except InvalidHead:
        return
    assert found.weight.shape == (2, 8)
    assert np.isfinite(found.weight).all()
