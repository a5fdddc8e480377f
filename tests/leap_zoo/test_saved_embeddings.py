"""`Embeddings.load`: what `save` wrote, what a service exported, and what only looks like either."""

from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leap_zoo import Embeddings
from leap_zoo.errors import InvalidArgument
from leap_zoo.files import new_file
from leap_zoo.gallery import Kind, open_gallery

EYE = np.eye(3, dtype=np.float32)
GOOD: dict[str, Any] = {
    "embeddings": EYE,
    "photos": np.array(["a.jpg", "café.jpg", "c.jpg"]),
    "model": np.array("m"),
    "revision": np.array("1"),
    "space": np.array("student"),
}
LINES = b'{"n":1}\n{}\n{"label":"cat"}\n'


def test_load__is_what_was_saved(tmp_path: Path) -> None:
    saved = Embeddings(["a.jpg", "café.jpg"], EYE[:2], "m", "1", "teacher", {"bad.jpg": "broken"})
    loaded = Embeddings.load(saved.save(tmp_path / "all.npz"))
    assert (loaded.photos, loaded.model, loaded.revision, loaded.space) == (saved.photos, "m", "1", "teacher")
    assert loaded.vectors.dtype == np.float32
    assert (loaded.vectors == saved.vectors).all()
    assert (loaded.bad, loaded.metadata) == ({}, None)
    empty = Embeddings([], np.empty((0, 3), np.float32), "m", "1", "student")
    assert Embeddings.load(str(empty.save(tmp_path / "empty.npz"))).photos == []


def test_load__an_exported_gallery_goes_into_another(tmp_path: Path) -> None:
    pytest.importorskip("pydantic", reason="needs the extra: pip install leap-zoo[serve]")
    from serve.stores import open_stores

    kind = Kind(model="m", revision="1", space="student", dim=3)
    served = open_stores(tmp_path / "data").galleries
    served.add("g", kind, ["a", "b", "c"], EYE, [{"n": 1}, {}, {"label": "cat"}])
    with (tmp_path / "trip.npz").open("w+b") as file:
        served.export("g", file)
    loaded = Embeddings.load(tmp_path / "trip.npz")
    with open_gallery(tmp_path / "copy", kind=kind) as copy:
        copy.add(loaded.photos, loaded.vectors, loaded.metadata)
        assert [(item.id, item.metadata) for item in copy.items()] == [
            ("a", {"n": 1}),
            ("b", {}),
            ("c", {"label": "cat"}),
        ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": None}, "embeddings"),
        ({"model": None}, "model"),
        ({"photos": None}, "photos"),
        ({"embeddings": EYE.astype(np.float64)}, "not float32"),
        ({"embeddings": EYE[0]}, r"not float32 \(N, D\)"),
        ({"embeddings": np.empty((3, 0), np.float32)}, r"not float32 \(N, D\)"),
        ({"embeddings": 2 * EYE}, "length 1"),
        ({"embeddings": np.full((3, 3), np.nan, np.float32)}, "length 1"),
        ({"photos": np.array(["a.jpg"])}, "photos are"),
        ({"photos": np.array([b"a", b"b", b"c"])}, "photos are"),
        ({"photos": np.array(["a", "b", None])}, "Object arrays|allow_pickle"),
        ({"space": np.array("studio")}, "space"),
        ({"model": np.array(["m"])}, "not a string"),
        ({"metadata": np.frombuffer(LINES[8:], np.uint8)}, "metadata for 2 photos"),
        ({"metadata": np.frombuffer(b"[1]\n[2]\n[3]\n", np.uint8)}, "object"),
    ],
)
def test_load__refuses_invalid_arrays(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {name: value for name, value in (GOOD | change).items() if value is not None}
    np.savez(tmp_path / "all.npz", **arrays)
    with pytest.raises(InvalidArgument, match=message) as caught:
        Embeddings.load(tmp_path / "all.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "cannot read"),
        (lambda path: path.write_bytes(b"photo,x,y\n"), "not a zip file"),
        (lambda path: np.savez_compressed(path, **GOOD), "compressed"),
    ],
)
def test_load__refuses_other_files(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "all.npz")
    with pytest.raises(InvalidArgument, match=message) as caught:
        Embeddings.load(tmp_path / "all.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_load__does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "all.npz")
    with pytest.raises(InvalidArgument, match="not a regular file"):
        Embeddings.load(tmp_path / "all.npz")


def test_load__of_damaged_headers_raises_nothing_else(tmp_path: Path) -> None:
    """Headers with a right checksum, so that numpy's own parser meets what is damaged."""
    np.savez(whole := io.BytesIO(), **GOOD)
    chance = random.Random(0)
    refused = 0
    for _ in range(500):
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "all.npz", "w") as target:
            for name in source.namelist():
                data = bytearray(source.read(name))
                data[chance.randrange(128)] = chance.choice(b"0129(),'<>|UOf \n\x00\xff")
                target.writestr(name, bytes(data))
        try:
            Embeddings.load(tmp_path / "all.npz")
        except InvalidArgument:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("path", [5, None, b"x.npz"])
def test_save__to_an_invalid_path(path: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"str or a Path|path of bytes"):
        new_file(path, ".npz")
