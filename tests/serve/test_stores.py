"""Galleries by name, without HTTP: kept apart, bounded, durable, safe between threads and processes."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pydantic", reason="needs the extra: pip install leap-zoo[serve]")

from refused_requests import refused

from leap_zoo.errors import InvalidArgument
from leap_zoo.gallery import Kind, Value, Vectors
from leap_zoo.gallery.flat import FlatGallery
from leap_zoo.heads import CustomHead
from serve.problems import Refused
from serve.stores import Limits, Stores, bytes_below, name_of, open_stores, stem_of

ROOT = Path(__file__).parents[2]
DIM = 4
KIND = Kind(model="m", revision="1", space="student", dim=DIM)
NAMES = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


# names


@given(NAMES, NAMES)
def test_stem__is_different_for_different_names_on_any_disk(one: str, other: str) -> None:
    assert name_of(stem_of(one)) == one
    assert stem_of(one) == stem_of(one).lower()
    assert (stem_of(one) == stem_of(other)) == (one == other)


@given(st.text(max_size=20))
def test_name_of__accepts_only_results_of_stem_of(stem: str) -> None:
    name = name_of(stem)
    assert name is None or stem_of(name) == stem


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a\0", "a\n", "ä", "a" * 65, "%2e%2e", "a b"]
)
def test_name__invalid_is_refused_first(stores: Stores, head: CustomHead, name: str) -> None:
    for call in (
        lambda: stores.galleries.add(name, KIND, ["a"], vectors(1)),
        lambda: stores.galleries.find(name),
        lambda: stores.galleries.search(name, KIND, vectors(1), 1),
        lambda: stores.galleries.items(name),
        lambda: stores.galleries.delete_items(name, ["a"]),
        lambda: stores.galleries.delete(name),
        lambda: stores.galleries.export(name, io.BytesIO()),
        lambda: stores.heads.get(name),
        lambda: stores.heads.create(name, head),
        lambda: stores.heads.delete(name),
    ):
        assert refused(call) == (422, "invalid_name")


# galleries


def test_gallery__names_that_differ_in_case_are_apart(stores: Stores) -> None:
    stores.galleries.add("Cats", KIND, ["a"], vectors(1))
    stores.galleries.add("cats", KIND, ["b"], vectors(1))
    stores.galleries.delete_items("cats", ["a"])
    assert [(one.name, one.items) for one in stores.galleries.list()] == [("Cats", 1), ("cats", 1)]
    assert [[hit.id for hit in hits] for hits in stores.galleries.search("Cats", KIND, vectors(1), 9)] == [["a"]]


def test_gallery__is_there_after_reopening(tmp_path: Path) -> None:
    open_stores(tmp_path).galleries.add("g", KIND, ["a", "b"], vectors(2), [{"label": "x"}, {}])
    again = open_stores(tmp_path).galleries
    assert again.about("g").kind == KIND
    assert again.about("g").bytes > 0
    assert [(item.id, item.metadata) for item in again.items("g")] == [("a", {"label": "x"}), ("b", {})]


def test_gallery__refuses_other_embeddings(stores: Stores) -> None:
    stores.galleries.add("g", KIND, ["a"], vectors(1))
    for other in (
        Kind(model="n", revision="1", space="student", dim=DIM),
        Kind(model="m", revision="2", space="student", dim=DIM),
        Kind(model="m", revision="1", space="teacher", dim=DIM),
    ):
        assert refused(lambda: stores.galleries.add("g", other, ["b"], vectors(1))) == (409, "other_embeddings")  # noqa: B023
        assert refused(lambda: stores.galleries.search("g", other, vectors(1), 1)) == (409, "other_embeddings")  # noqa: B023
    assert stores.galleries.about("g").items == 1


def test_gallery__missing_is_404(stores: Stores) -> None:
    for call in (
        lambda: stores.galleries.about("g"),
        lambda: stores.galleries.search("g", KIND, vectors(1), 1),
        lambda: stores.galleries.items("g"),
        lambda: stores.galleries.delete_items("g", ["a"]),
        lambda: stores.galleries.delete("g"),
        lambda: stores.galleries.export("g", io.BytesIO()),
    ):
        assert refused(call) == (404, "unknown_gallery")
    assert stores.galleries.find("g") is None


def test_gallery__recreated_with_another_model_is_the_new_one(tmp_path: Path) -> None:
    one, other = open_stores(tmp_path), open_stores(tmp_path)  # as two processes
    one.galleries.add("g", KIND, ["a"], vectors(1))
    new = Kind(model="n", revision="1", space="student", dim=DIM)
    other.galleries.delete("g")
    assert refused(lambda: one.galleries.items("g")) == (404, "unknown_gallery")
    other.galleries.add("g", new, ["b"], vectors(1))
    assert [item.id for item in one.galleries.items("g")] == ["b"]
    assert refused(lambda: one.galleries.search("g", KIND, vectors(1), 1)) == (409, "other_embeddings")


def test_gallery__with_metadata_that_cannot_be_kept_is_not_made(stores: Stores) -> None:
    bad = [{"not a name": 1}]
    assert refused(lambda: stores.galleries.add("g", KIND, ["a"], vectors(1), bad)) == (422, "invalid_metadata")
    assert not stores.galleries.list()


def test_limits__of_galleries_items_ids_and_bytes(tmp_path: Path) -> None:
    galleries = open_stores(
        tmp_path, limits=Limits(galleries=2, items=3, id_characters=5, gallery_bytes=4000)
    ).galleries
    galleries.add("a", KIND, ["1", "2", "3"], vectors(3))
    galleries.add("b", KIND, ["1"], vectors(1))
    assert refused(lambda: galleries.add("c", KIND, ["1"], vectors(1))) == (409, "too_many_galleries")
    assert refused(lambda: galleries.add("a", KIND, ["4"], vectors(1))) == (409, "gallery_full")
    assert refused(lambda: galleries.add("b", KIND, ["123456"], vectors(1))) == (422, "invalid_id")
    assert refused(lambda: galleries.add("b", KIND, ["2"], vectors(1), [{"x": "y" * 3000}])) == (409, "store_full")
    assert galleries.add("a", KIND, ["2"], vectors(1)) == 3  # replaced: as many as before
    galleries.delete("b")
    assert galleries.add("c", KIND, ["1"], vectors(1)) == 1
    assert [(one.name, one.items) for one in galleries.list()] == [("a", 3), ("c", 1)]


def test_limits__a_refused_gallery_leaves_nothing(tmp_path: Path) -> None:
    stores = open_stores(tmp_path, limits=Limits(items=1))
    assert refused(lambda: stores.galleries.add("g", KIND, ["1", "2"], vectors(2))) == (409, "gallery_full")
    assert not stores.galleries.list()


def test_limits__of_galleries_hold_between_threads(tmp_path: Path) -> None:
    galleries = open_stores(tmp_path, limits=Limits(galleries=3)).galleries

    def make(number: int) -> str:
        try:
            galleries.add(f"g{number}", KIND, ["a"], vectors(1))
        except Refused as refused:
            return refused.code
        return "made"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(make, range(8))) == ["made"] * 3 + ["too_many_galleries"] * 5
    assert len(galleries.list()) == 3


def test_add__by_many_threads_loses_nothing(stores: Stores) -> None:
    def add(number: int) -> int:
        return stores.galleries.add("g", KIND, [f"{number}-{i}" for i in range(3)], vectors(3, number))

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(add, range(24)))
    assert sorted(counts) == [3 * (n + 1) for n in range(24)]  # each saw its own write, one after the other
    assert {item.id for item in stores.galleries.items("g")} == {f"{n}-{i}" for n in range(24) for i in range(3)}


ADD_AND_DELETE = """
import sys
from pathlib import Path
import numpy as np
from leap_zoo.gallery import Kind
from serve.problems import Refused
from serve.stores import open_stores
galleries = open_stores(Path(sys.argv[1])).galleries
kind = Kind(model="m", revision="1", space="student", dim=4)
for number in range(12):
    galleries.add("kept", kind, [f"{sys.argv[2]}-{number}"], np.ones((1, 4), np.float32))
    galleries.add("fleeting", kind, ["a"], np.ones((1, 4), np.float32))
    try:
        galleries.delete("fleeting")
    except Refused as refused:
        assert refused.code == "unknown_gallery", refused.code
"""


def test_add_and_delete__by_several_processes_lose_nothing(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", ADD_AND_DELETE, str(tmp_path), name], cwd=ROOT, stderr=subprocess.PIPE)
        for name in "ab"
    ]
    for process in writers:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()
    galleries = open_stores(tmp_path).galleries
    assert {item.id for item in galleries.items("kept")} == {f"{name}-{n}" for name in "ab" for n in range(12)}
    assert [one.name for one in galleries.list()] == ["kept"]


def test_search__while_the_gallery_is_deleted_and_recreated(stores: Stores) -> None:
    stores.galleries.add("g", KIND, ["a", "b"], vectors(2))
    stop, seen = threading.Event(), set()

    def search() -> None:
        while not stop.is_set():
            try:
                hits = stores.galleries.search("g", KIND, vectors(1), 5)[0]
                seen.add(tuple(sorted(hit.id for hit in hits)))
            except Refused as refused:
                seen.add(refused.code)

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(search) for _ in range(2)]
        until, turns = time.monotonic() + 60, 0
        while time.monotonic() < until and (turns < 20 or ("a", "b") not in seen):
            turns += 1
            stores.galleries.delete("g")
            stores.galleries.add("g", KIND, ["a", "b"], vectors(2))
        stop.set()
        for one in running:
            one.result()
    assert ("a", "b") in seen
    assert seen <= {("a", "b"), (), "unknown_gallery"}  # () between its making and its first item


def test_deleted__gallery_leaves_no_file(tmp_path: Path) -> None:
    stores = open_stores(tmp_path)
    stores.galleries.add("g", KIND, ["a"], vectors(1))
    stores.galleries.delete("g")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_killed__while_deleting_is_finished_at_the_next_start(tmp_path: Path) -> None:
    open_stores(tmp_path).galleries.add("g", KIND, ["a"], vectors(1))
    (tmp_path / "galleries" / "g").rename(tmp_path / "galleries" / ".deleted-0")
    stores = open_stores(tmp_path)
    assert not stores.galleries.list()
    assert not list((tmp_path / "galleries").iterdir())


def test_killed__writer_leaves_no_lock_after_the_next_start(tmp_path: Path) -> None:
    open_stores(tmp_path)
    for file in ("work/lock", "heads/.0123456789abcdef.tmp"):
        (tmp_path / file).write_bytes(b"")
    open_stores(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_damaged_gallery__is_reported_without_a_path_and_can_be_deleted(
    stores: Stores, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stores.galleries.add("g", KIND, ["a"], vectors(1))
    stores.galleries.add("whole", KIND, ["a"], vectors(1))
    (tmp_path / "data/galleries/g/manifest.json").write_bytes(b'{"schema":1}')
    with pytest.raises(Refused) as caught:
        stores.galleries.search("g", KIND, vectors(1), 1)
    assert (caught.value.status, caught.value.code) == (500, "gallery_damaged")
    assert str(tmp_path) not in caught.value.detail
    assert "manifest.json" in caplog.text
    assert [one.name for one in stores.galleries.list()] == ["whole"]
    stores.galleries.delete("g")
    assert stores.galleries.add("g", KIND, ["a"], vectors(1)) == 1


# exports


def exported(stores: Stores) -> io.BytesIO:
    """The gallery `g` as a file."""
    file = io.BytesIO()
    stores.galleries.export("g", file)
    return file


def test_export__is_an_npz_of_one_state(stores: Stores) -> None:
    rows = vectors(10_000)
    stores.galleries.add(
        "g", KIND, [f"é{n}" for n in range(10_000)], rows, [{"n": n, "t": "\u2028"} for n in range(10_000)]
    )
    export = exported(stores)
    stores.galleries.delete("g")
    with np.load(export, allow_pickle=False) as file:
        assert set(file) == {"ids", "embeddings", "metadata", "model", "revision", "space"}
        assert file["ids"].tolist() == [f"é{n}" for n in range(10_000)]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(file["embeddings"], rows / lengths, rtol=1e-5)
        assert (str(file["model"]), str(file["revision"]), str(file["space"])) == ("m", "1", "student")
        lines = file["metadata"].tobytes().splitlines()
        assert lines[7] == '{"n":7,"t":"\u2028"}'.encode()
        assert len(lines) == 10_000


def test_export__of_an_empty_gallery(stores: Stores) -> None:
    stores.galleries.add("g", KIND, ["a"], vectors(1))
    stores.galleries.delete_items("g", ["a"])
    with np.load(exported(stores)) as file:
        assert file["embeddings"].shape == (0, DIM)
        assert file["ids"].shape == file["metadata"].shape == (0,)


def test_export__stops_when_its_file_is_closed(stores: Stores, tmp_path: Path) -> None:
    """As when the client has left: until the export ended, it kept its place and its file."""
    stores.galleries.add("g", KIND, ["a"], vectors(1))
    file = stores.galleries.temporary_file()
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        stores.galleries.export("g", file)
    assert not list((tmp_path / "data" / "work").iterdir())


def test_export__stops_reading_when_its_file_is_closed(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It copied the whole gallery before it looked at the file."""
    stores.galleries.add("g", KIND, ["a"], vectors(1))
    file = stores.galleries.temporary_file()
    read: list[int] = []

    def batches(gallery: FlatGallery) -> Iterator[tuple[list[str], Vectors, list[dict[str, Value]]]]:
        for number in range(5):
            read.append(number)
            yield [str(number)], vectors(1), [{}]
            file.close()

    monkeypatch.setattr(FlatGallery, "export", batches)
    with pytest.raises(ValueError, match="closed file"):
        stores.galleries.export("g", file)
    assert read == [0, 1]


def test_bytes__of_a_folder_that_is_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "file").write_bytes(b"12345")
    scan = os.scandir

    def late(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "gone":
            os.rmdir(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", late)
    assert bytes_below(tmp_path) == 5


# the folder


def test_open__without_a_folder_warns_that_data_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "leap_zoo.serve"):
        stores = open_stores()
    stores.galleries.add("g", KIND, ["a"], vectors(1))
    assert "LEAP_ZOO_SERVE_DATA" in caplog.text
    folder = Path(stores.temporary.name)
    stores.close()
    assert not folder.exists()


def test_open__a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidArgument, match="LEAP_ZOO_SERVE_DATA"):
        open_stores(tmp_path / "file")
