"""Decoded photos on disk: made once, shared, made again when they are incomplete or of other photos."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leap_zoo.card import Preprocessing
from leap_zoo.preprocess import to_tensor
from train.data import store
from train.data.sources import find_photos
from train.data.splits import Split, labelled_folder, unlabelled
from train.data.store import Photos, Shown, View, Whole, in_memory, open_photos
from train.errors import TrainError

WHOLE, SHOWN = Whole(24), Shown(Preprocessing(size=32, short_side=36))


@contextmanager
def decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The photos that are decoded meanwhile."""
    seen: list[Path] = []
    decode = store.open_image
    with monkeypatch.context() as patch:
        patch.setattr(
            store, "open_image", lambda source, **options: (seen.append(source), decode(source, **options))[1]
        )
        yield seen


def opened(split: Split, folder: Path, *views: View) -> list[Photos]:
    return open_photos(split, views or [WHOLE], folder)


def test_store__photos_are_decoded_once(own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = labelled_folder(own_folders / "val")
    with decoding(monkeypatch) as seen:
        (first,) = opened(split, tmp_path / "store")
    assert seen == split.sources
    with decoding(monkeypatch) as seen:
        (second,) = opened(split, tmp_path / "store")
    assert seen == []
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.pixels.shape == (18, 24, 24, 3)
    assert second.labels.tolist() == split.labels.tolist()
    assert second.classes == ("blue", "green", "red")


def test_store__two_views_are_of_one_decoding(
    photo_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = labelled_folder(photo_folders / "val")
    with decoding(monkeypatch) as seen:
        whole, shown = opened(split, tmp_path, WHOLE, SHOWN)
    assert seen == split.sources
    assert whole.pixels.shape[1:] == (24, 24, 3)
    for position in (0, 7, 17):
        np.testing.assert_array_equal(shown.pixels[position], to_tensor(split.sources[position], SHOWN.spec))


def test_store__only_the_missing_view_is_decoded(
    photo_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = labelled_folder(photo_folders / "val")
    opened(split, tmp_path, WHOLE)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with decoding(monkeypatch) as seen:
        opened(split, tmp_path, WHOLE, SHOWN)
    assert seen == split.sources
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before
    assert len(list(tmp_path.iterdir())) == 4


def test_store__is_mapped_from_disk_and_cannot_be_written(photo_folders: Path, tmp_path: Path) -> None:
    (photos,) = opened(labelled_folder(photo_folders / "val"), tmp_path)
    (file,) = tmp_path.glob("*.u8")
    assert isinstance(photos.pixels, np.memmap)
    assert Path(photos.pixels.filename) == file
    assert photos.pixels.base is not None
    with pytest.raises(ValueError, match="read-only"):
        photos.pixels[0, 0, 0, 0] = 1
    with file.open("r+b") as writer:  # what is read is what is on disk now
        writer.write(bytes([7]))
    assert photos.pixels[0, 0, 0, 0] == 7


@pytest.mark.parametrize("lost", ["index", "partial"])
def test_store__that_is_incomplete_is_made_again(
    photo_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    split = labelled_folder(photo_folders / "val")
    (whole,) = opened(split, tmp_path)
    expected = np.array(whole.pixels)
    (index,), (file,) = tmp_path.glob("*.parquet"), tmp_path.glob("*.u8")
    index.unlink()  # the writer was killed before it wrote it ...
    if lost == "partial":  # ... or before it had all photos
        file.write_bytes(file.read_bytes()[:1000])
    with decoding(monkeypatch) as seen:
        (again,) = opened(split, tmp_path)
    assert seen == split.sources
    np.testing.assert_array_equal(again.pixels, expected)


def test_store__shorter_than_its_index_says_is_refused_with_the_fix(photo_folders: Path, tmp_path: Path) -> None:
    split = labelled_folder(photo_folders / "val")
    opened(split, tmp_path)
    (file,) = tmp_path.glob("*.u8")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TrainError, match=r"not as long as its index says.*data\.store=FOLDER"):
        opened(split, tmp_path)


@pytest.mark.parametrize("change", ["content", "one less", "order", "view"])
def test_store__of_another_list_or_view_is_another(
    own_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    split, view = labelled_folder(own_folders / "val"), WHOLE
    opened(split, tmp_path / "store")
    if change == "content":
        Image.new("RGB", (9, 9)).save(split.sources[0])
        os.utime(split.sources[0], ns=(1, 1))
    elif change == "one less":
        split = split.take(np.arange(1, 18))
    elif change == "order":
        split = split.take(np.arange(18)[::-1])
    else:
        view = Whole(25)
    with decoding(monkeypatch) as seen:
        (photos,) = opened(split, tmp_path / "store", view)
    assert seen == split.sources
    assert len(list((tmp_path / "store").glob("*.parquet"))) == 2
    np.testing.assert_array_equal(photos.pixels, in_memory(split, view).pixels)


def test_store__leaves_broken_photos_out_and_lists_them(
    own_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    green = own_folders / "train" / "green"
    (green / "kept_1.png").write_bytes((green / "kept_1.png").read_bytes()[:200])
    (green / "kept_2.png").write_text("not a photo")
    (green / "notes.txt").write_text("not a photo either, and not called one")
    split = labelled_folder(own_folders / "train")
    for _ in range(2):  # made, then found
        (photos,) = open_photos(split, [WHOLE], tmp_path / "store", "training photos")
        assert len(photos) == 34
        assert [Path(path).name for path, _ in photos.skipped] == ["kept_1.png", "kept_2.png"]
        assert np.bincount(photos.labels).tolist() == [12, 10, 12]
        strongest = photos.pixels.mean((1, 2)).argmax(1)
        assert [("red", "green", "blue")[at] for at in strongest] == [photos.classes[at] for at in photos.labels]
    said = capsys.readouterr().out
    assert said.count("2 of 36 training photos left out") == 1
    assert "kept_1.png" in said


def test_store__of_broken_photos_only_is_an_error_that_leaves_nothing(own_folders: Path, tmp_path: Path) -> None:
    for path in (own_folders / "val").rglob("*.png"):
        path.write_text("not a photo")
    with pytest.raises(TrainError, match="none of the 18 photos can be decoded"):
        opened(labelled_folder(own_folders / "val"), tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_store__that_cannot_be_written_names_the_setting(photo_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainError, match=r"data\.store=FOLDER"):
        opened(labelled_folder(photo_folders / "val"), tmp_path / "file")


def test_whole__keeps_the_photo_to_its_edges_and_its_aspect(tmp_path: Path) -> None:
    left, right = np.full((30, 45, 3), (255, 0, 0), np.uint8), np.full((30, 45, 3), (0, 0, 255), np.uint8)
    Image.fromarray(np.concatenate([left, right], 1)).save(tmp_path / "wide.png")  # 90 x 30
    Image.new("L", (30, 120), 9).save(tmp_path / "tall.png")
    (photos,) = opened(unlabelled(find_photos(tmp_path)), tmp_path / "store")
    assert photos.aspect.tolist() == [0.25, 3.0]
    assert (photos.pixels[0] == 9).all()
    assert (photos.pixels[1, :, :11] == (255, 0, 0)).all()
    assert (photos.pixels[1, :, 13:] == (0, 0, 255)).all()


def test_in_memory__equals_the_store(photo_folders: Path, tmp_path: Path) -> None:
    split = labelled_folder(photo_folders / "val")
    memory, (disk,) = in_memory(split, SHOWN), opened(split, tmp_path, SHOWN)
    for name in ("pixels", "labels", "aspect"):
        np.testing.assert_array_equal(getattr(memory, name), getattr(disk, name))
    part = disk.take(np.array([3, 1]))
    np.testing.assert_array_equal(part.pixels, disk.pixels[[3, 1]])
    assert not isinstance(part.pixels.base, np.memmap)


def test_store__written_by_two_processes_at_once_is_not_an_error(
    photo_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, write = labelled_folder(photo_folders / "val"), store.pyarrow.parquet.write_table

    def race(*arguments: object) -> None:
        write(*arguments)
        with monkeypatch.context() as other:
            other.setattr(store.pyarrow.parquet, "write_table", write)
            other.setattr(os, "getpid", lambda: 0)
            opened(split, tmp_path)

    monkeypatch.setattr(store.pyarrow.parquet, "write_table", race)
    (photos,) = opened(split, tmp_path)
    np.testing.assert_array_equal(photos.pixels, in_memory(split, WHOLE).pixels)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet", ".u8"]


def test_store__of_arrays_is_named_by_their_pixels(tmp_path: Path) -> None:
    arrays = [np.full((8, 8), shade, np.uint8) for shade in (10, 20)]
    for shades in ([0, 1], [1, 0]):
        (photos,) = opened(unlabelled([arrays[i] for i in shades]), tmp_path)
        assert photos.pixels[:, 0, 0, 0].tolist() == [arrays[i][0, 0] for i in shades]


def test_photo_of_a_large_jpeg__may_be_drafted_but_keeps_its_own_size(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((800, 400)).save(buffer, "JPEG")
    (tmp_path / "large.jpg").write_bytes(buffer.getvalue())
    (photos,) = opened(unlabelled(find_photos(tmp_path)), tmp_path / "store")
    assert photos.aspect.tolist() == [2.0]
    column = photos.pixels[0, :, 12, 0].astype(int)
    assert (np.diff(column) > 0).all()
