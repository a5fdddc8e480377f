"""Folders of photos: batches, bad photos, and the files that keep the embeddings; and one model for many threads."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from leap_zoo import InvalidArgument, Model, NotAnImage, UnknownSpace
from leap_zoo.card import Artifact, File
from leap_zoo.cli import main
from leap_zoo.folders import find_photos
from leap_zoo.runtime import open_session

TINY = "leap-tiny-test"


@pytest.fixture(scope="module")
def model(tiny_zoo: Path) -> Model:
    return leap_zoo.load(TINY, zoo=tiny_zoo, threads=2)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 70 photos in two folders, a broken one among them, a hidden one and a text."""
    folder = tmp_path_factory.mktemp("many")
    random = np.random.default_rng(5)
    for number in range(70):
        path = folder / ("a" if number % 2 else "b/c") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(path)
    (folder / "a" / "20bad.jpg").write_bytes(b"no photo")
    (folder / "a" / ".hidden.png").write_bytes(b"")
    (folder / "a" / "list.txt").write_text("text")
    return folder


def photos_of(folder: Path) -> list[str]:
    photos = find_photos(folder).photos
    assert len(photos) == 71
    return photos


def test_embed_folder__equals_one_by_one(model: Model, many: Path) -> None:
    found = leap_zoo.embed_folder(model, many, space="teacher")
    good = [photo for photo in photos_of(many) if "bad" not in photo]
    assert found.photos == good
    assert (found.vectors.shape, found.vectors.dtype) == ((70, 12), np.float32)
    assert np.abs(found.vectors - np.stack([model.embed(photo, space="teacher") for photo in good])).max() < 1e-5
    assert list(found.bad) == [str(many / "a" / "20bad.jpg")]
    assert (found.model, found.revision, found.space) == (TINY, "1", "teacher")


def test_embed_folder__nothing_readable_gives_an_empty_array(model: Model, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    found = leap_zoo.embed_folder(model, tmp_path)
    assert (found.photos, found.vectors.shape, len(found.bad)) == ([], (0, 8), 1)
    with pytest.raises(UnknownSpace):
        leap_zoo.embed_folder(model, tmp_path, space="techer")  # type: ignore[arg-type]


def test_answers__run_in_batches_and_read_no_further_than_two_ahead(
    model: Model, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, taken = [], []
    run = model.session.run
    monkeypatch.setattr(model.session, "run", lambda image, outputs: sizes.append(len(image)) or run(image, outputs))
    photo = photos_of(many)[0]
    stream = model.answers((taken.append(1) or photo for _ in range(200)), "embedding")
    next(stream)
    assert len(taken) <= 64
    assert len(list(stream)) == 199
    assert sizes == [32] * 6 + [8]


def test_answers__keep_the_order_of_good_and_bad(model: Model, many: Path) -> None:
    photo = photos_of(many)[0]
    found = list(model.answers([b"bad", photo, b"bad", photo], "embedding"))
    assert [isinstance(answer, NotAnImage) for answer in found] == [True, False, True, False]
    assert all(isinstance(answer, NotAnImage) for answer in model.answers([b"bad"] * 40, "embedding"))
    assert list(model.answers([], "embedding")) == []
    with pytest.raises(InvalidArgument, match="an image must be"):
        list(model.answers([photo, 7], "embedding"))  # type: ignore[list-item]


def test_save__npz(model: Model, many: Path, tmp_path: Path) -> None:
    found = leap_zoo.embed_folder(model, many)
    with np.load(found.save(tmp_path / "all.npz"), allow_pickle=False) as saved:
        assert np.array_equal(saved["embeddings"], found.vectors)
        assert saved["photos"].tolist() == found.photos
        assert [str(saved[name]) for name in ("model", "revision", "space")] == [TINY, "1", "student"]
    assert [path.name for path in tmp_path.iterdir()] == ["all.npz"]


def test_save__other_suffixes_and_absent_folders(model: Model, many: Path, tmp_path: Path) -> None:
    found = leap_zoo.embed_folder(model, many)
    for name, message in (("all.csv", "must end in"), ("all", "must end in"), ("absent/all.npz", "exist")):
        with pytest.raises(InvalidArgument, match=message):
            found.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_save__failure_leaves_the_old_file(
    model: Model, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = leap_zoo.embed_folder(model, many)
    path = tmp_path / "all.npz"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidArgument, match="No space left"):
        found.save(path)
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["all.npz"]


def test_command__embeds_a_folder_with_a_bad_photo(
    tiny_zoo: Path, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.npz"
    assert main(["embed", str(many), "--out", str(out), "--json", "--model", TINY, "--zoo", str(tiny_zoo)]) == 2
    printed, errors = capsys.readouterr()
    found = json.loads(printed)
    assert (found["embeddings"], found["file"]) == (70, str(out))
    assert "20bad.jpg" in errors
    assert found["photos"][0]["photo"].endswith("20bad.jpg")


def test_command__refuses_a_suffix_before_it_looks_at_a_photo(
    tiny_zoo: Path, many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(many), "--out", "all.csv", "--model", TINY, "--zoo", str(tiny_zoo)]) == 2
    assert "must end in .npz" in capsys.readouterr().err


def test_model__answers_many_threads_as_one(model: Model, many: Path) -> None:
    photos = [photo for photo in photos_of(many) if "bad" not in photo]
    alone = [(model.embed(photo), model.classify(photo, head="brightness")) for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        embeddings = list(pool.map(model.embed, photos * 4))
        classes = list(pool.map(lambda photo: model.classify(photo, head="brightness"), photos * 4))
    for number, (embedding, predictions) in enumerate(alone * 4):
        assert np.array_equal(embeddings[number], embedding)
        assert classes[number] == predictions


def test_openvino_session__answers_many_threads_as_one(tiny_zoo: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is an extra")
    xml = tmp_path / "model.xml"
    openvino.serialize(openvino.Core().read_model(str(tiny_zoo / TINY / "model.onnx")), str(xml))
    files = [xml.read_bytes(), xml.with_suffix(".bin").read_bytes()]
    artifact = Artifact(
        file="model.xml",
        bytes=len(files[0]),
        sha256="0" * 64,
        precision="fp32",
        format="openvino",
        weights=File(file="model.bin", bytes=len(files[1]), sha256="0" * 64),
        ir=11,
        minimum_runtime="2024.0",
    )
    session = open_session(artifact, files, threads=1, exact=True)
    images = np.random.default_rng(0).integers(0, 256, (60, 2, 32, 32, 3), dtype=np.uint8)
    outputs = ["embedding", "logits_colours"]
    alone = [session.run(image, outputs) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: session.run(image, outputs), np.concatenate([images] * 5)))
    assert len(together) == 300
    for expected, found in zip(alone * 5, together, strict=True):
        for ours, theirs in zip(expected, found, strict=True):
            assert np.array_equal(ours, theirs)
    assert np.abs(alone[0][0] - alone[1][0]).max() > 1e-3
