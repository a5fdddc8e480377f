"""The contract of a gallery, kept by every engine; and what only folders promise."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leap_zoo
from leap_zoo.errors import InvalidArgument, InvalidGallery, LeapZooError, MissingExtra, UnknownSpace
from leap_zoo.gallery import MAX_METADATA, Gallery, Kind, flat, open_gallery
from leap_zoo.gallery.flat import FlatGallery

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")

KIND = Kind(model="m", revision="1", space="student", dim=4)
EYE = np.eye(4, dtype=np.float32)

Open = Callable[..., Gallery]


def needs(package: str, extra: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"the extra {extra} is not installed")


@pytest.fixture(
    params=[
        "flat",
        pytest.param("qdrant", marks=needs("qdrant_client", "qdrant")),
        pytest.param("qdrant over HTTP", marks=needs("qdrant_client", "qdrant")),
    ]
)
def reopen(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens one and the same place again and again, with the engine at hand."""
    if request.param == "qdrant over HTTP":
        from qdrant_stand_in import KEY, stand_in

        monkeypatch.setenv("LEAP_ZOO_QDRANT_KEY", KEY)
        with stand_in() as host:
            yield lambda kind=KIND: open_gallery(f"qdrant://{host}/photos", kind=kind)
        return
    clients = []

    def one(kind: Kind | None = KIND) -> Gallery:
        if request.param == "qdrant":
            from qdrant_client import QdrantClient

            from leap_zoo.gallery.qdrant import QdrantGallery

            while clients:
                clients.pop().close()  # a local folder has one client at a time
            clients.append(QdrantClient(path=str(tmp_path / "qdrant")))
            return QdrantGallery(clients[-1], "photos", kind)
        return FlatGallery(tmp_path / "gallery", kind)

    yield one
    for client in clients:
        client.close()


def ids(hits: list[list[leap_zoo.gallery.Hit]]) -> list[list[str]]:
    return [[hit.id for hit in each] for each in hits]


def test_search__best_first_with_cosine_and_metadata(reopen: Open) -> None:
    gallery = reopen()
    gallery.add(["x", "y"], 5 * EYE[:2], [{"label": "cat", "bytes": 7}, {"label": "dog", "half": 0.5, "none": None}])
    found = gallery.search(np.array([[3, 1, 0, 0], [0, 2, 0, 0]]), k=2)
    assert ids(found) == [["x", "y"], ["y", "x"]]
    assert [hit.score for hit in found[0]] == pytest.approx([3 / 10**0.5, 1 / 10**0.5], abs=1e-6)
    assert found[0][0].metadata == {"label": "cat", "bytes": 7}
    assert found[0][1].metadata == {"label": "dog", "half": 0.5, "none": None}
    assert ids(gallery.search(EYE[:1], k=1)) == [["x"]]
    assert gallery.search(EYE[:0]) == []


def test_search__of_one_vector_is_one_list(reopen: Open) -> None:
    gallery = reopen()
    gallery.add(["x", "y"], EYE[:2], [{"n": 1}, {"n": 2}])
    assert gallery.search(EYE[1], k=1) == gallery.search(EYE[1:2], k=1)[0]
    assert [hit.id for hit in gallery.search([3, 1, 0, 0], k=np.int64(2))] == ["x", "y"]  # type: ignore[arg-type]
    assert gallery.search(EYE[0], where={"n": 3}) == []
    for wrong in (np.ones(5), np.ones((1, 1, 4)), np.float32(1), [], ["a"] * 4):
        with pytest.raises(InvalidArgument, match=r"shape \(N, 4\)"):
            gallery.search(wrong)  # type: ignore[arg-type]


def test_search__where_is_a_conjunction_of_equal_values(reopen: Open) -> None:
    gallery = reopen()
    fields = [{"label": "cat", "year": 1}, {"label": "cat", "year": 2}, {"label": "dog", "year": 2}, {}]
    gallery.add(["a", "b", "c", "d"], EYE, fields)
    assert set(ids(gallery.search(EYE[:1], where={"label": "cat"}))[0]) == {"a", "b"}
    assert ids(gallery.search(EYE[:1], where={"label": "cat", "year": 2})) == [["b"]]
    assert ids(gallery.search(EYE[:2], where={"year": 3})) == [[], []]
    assert ids(gallery.search(EYE[:1], where={"unheard-of": "x"})) == [[]]


def test_metadata__of_numpy_are_kept_as_pythons_own(reopen: Open) -> None:
    gallery = reopen()
    labels = np.array(["cat", "dog"])
    gallery.add(labels.tolist(), EYE[:2], [{"label": one, "n": np.int64(3), "x": np.float32(0.5)} for one in labels])
    assert gallery.search(EYE[0], where={"label": labels[1], "n": np.int64(3)})[0].id == "dog"  # type: ignore[dict-item]
    fields = gallery.items()[0].metadata
    assert {name: type(value) for name, value in fields.items()} == {"label": str, "n": int, "x": float}


def test_add__replaces_by_id(reopen: Open) -> None:
    gallery = reopen()
    gallery.add(["x", "y"], EYE[:2], [{"n": 1}, {"n": 2}])
    gallery.add(["x"], EYE[2:3], [{"n": 3}])
    assert gallery.count() == 2
    best = gallery.search(EYE[2:3], k=1)[0][0]
    assert (best.id, best.metadata) == ("x", {"n": 3})
    assert gallery.search(EYE[:1], k=2)[0][0].score == pytest.approx(0, abs=1e-6)


def test_delete__counts_existing_items(reopen: Open) -> None:
    gallery = reopen()
    gallery.add(["x", "y", "z"], EYE[:3])
    assert gallery.delete(["y", "stranger"]) == 1
    assert gallery.delete(["y"]) == 0
    assert gallery.count() == 2
    assert set(ids(gallery.search(EYE[:1], k=9))[0]) == {"x", "z"}
    assert gallery.delete(["x", "z"]) == 2
    assert (gallery.count(), gallery.search(EYE[:1])) == (0, [[]])


def test_reopened__is_the_same(reopen: Open) -> None:
    names = [f"café/{i}.jpg" for i in range(4)]
    reopen().add(names, EYE, [{"i": i} for i in range(4)])
    gallery = reopen(None)
    assert gallery.kind == KIND
    assert {item.id: item.metadata["i"] for item in gallery.items()} == {name: i for i, name in enumerate(names)}
    assert gallery.items(1, 2) == gallery.items()[1:3]
    assert gallery.items(3, 9) == gallery.items()[3:]


def test_items__after_an_id_are_stable_under_deletion(reopen: Open) -> None:
    gallery = reopen()
    gallery.add(["a", "b", "c", "d"], EYE)
    order = [item.id for item in gallery.items()]
    assert [item.id for item in gallery.items(after=order[1])] == order[2:]
    assert [item.id for item in gallery.items(1, 1, after=order[0])] == order[2:3]
    assert gallery.items(after=order[3]) == []
    gallery.delete([order[0]])
    assert [item.id for item in gallery.items(after=order[1])] == order[2:]
    with pytest.raises(InvalidArgument, match="start over"):
        gallery.items(after=order[0])


def test_export__can_be_imported_into_another_gallery(reopen: Open, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    gallery = reopen()
    gallery.add([str(i) for i in range(50)], random.normal(size=(50, 4)), [{"i": i} for i in range(50)])
    gallery.delete(["7"])
    with open_gallery(tmp_path / "copy", kind=gallery.kind) as copy:
        for batch in gallery.export():
            copy.add(*batch)
        assert copy.count() == 49
        query = random.normal(size=(3, 4))
        assert ids(copy.search(query, k=49)) == ids(gallery.search(query, k=49))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], np.ones((1, 5))), r"shape \(N, 4\)"),
        ((["a"], np.ones(4)), r"shape \(N, 4\)"),
        ((["a", "b"], [[1, 2, 3, 4], [1]]), "rows of equal length"),
        ((["a"], [["x"] * 4]), r"shape \(N, 4\)"),
        ((["a"], np.zeros((1, 4))), "zero or not finite"),
        ((["a"], np.full((1, 4), np.nan)), "zero or not finite"),
        ((["a", "b"], np.ones((1, 4))), "same number of vectors"),
        ((["a", "a"], np.ones((2, 4))), "occurs twice"),
        (([""], np.ones((1, 4))), "1 to 4096"),
        ((["\ud800"], np.ones((1, 4))), "Unicode"),
        (("a", np.ones((1, 4))), "list of strings"),
        ((["a"], np.ones((1, 4)), [{}, {}]), "same number of metadata"),
        ((["a"], np.ones((1, 4)), [{"list": [1]}]), "a string, a finite number"),
        ((["a"], np.ones((1, 4)), [{"no.dots": 1}]), "letters, digits"),
        ((["a"], np.ones((1, 4)), [{"x": "\ud800"}]), "a string, a finite number"),
        ((["a"], np.ones((1, 4)), [{"x": float("inf")}]), "a string, a finite number"),
        ((["a"], np.ones((1, 4)), [{"x": 2**64}]), "64 bits"),
        ((["a"], np.ones((1, 4)), [{"x": "y" * MAX_METADATA}]), "limit: "),
    ],
)
def test_add__refuses_and_keeps_nothing(reopen: Open, arguments: tuple[object, ...], message: str) -> None:
    gallery = reopen()
    with pytest.raises(InvalidArgument, match=message):
        gallery.add(*arguments)  # type: ignore[arg-type]
    assert gallery.count() == 0


@pytest.mark.parametrize(
    ("k", "where"), [(0, None), (True, None), (10**9, None), (1, {"x": 0.5}), (1, {"a.b": "x"}), (1, {"x": 2**70})]
)
def test_search__refuses(reopen: Open, k: int, where: dict[str, object] | None) -> None:
    with pytest.raises(InvalidArgument):
        reopen().search(EYE[:1], k, where)  # type: ignore[arg-type]


def test_where__tells_text_numbers_and_truth_values_apart(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path / "gallery", kind=KIND)
    gallery.add(["text", "number", "truth", "float"], EYE, [{"x": "1"}, {"x": 1}, {"x": True}, {"x": 1.0}])
    for name, value in (("text", "1"), ("number", 1), ("truth", True)):
        assert ids(gallery.search(EYE[:1], where={"x": value})) == [[name]]


def test_where__reads_the_metadata_once_and_keeps_few_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that searched for names that no item has took most of the time of a service from others."""
    monkeypatch.setattr(flat, "MAX_COLUMNS", 3)
    gallery = FlatGallery(tmp_path / "gallery", KIND)
    gallery.add(list("abcd"), EYE, [{f"n{number}": number for number in range(8)}] * 4)
    (segment,) = gallery.snapshot().segments
    assert ids(gallery.search(EYE[:1], where={"unknown": 1})) == [[]]
    monkeypatch.setitem(segment.__dict__, "items", [])  # whatever is still found comes from memory
    assert ids(gallery.search(EYE[:1], where={"nobody": 1, "unknown": 2})) == [[]]
    assert not segment.columns
    monkeypatch.undo()
    monkeypatch.setattr(flat, "MAX_COLUMNS", 3)
    for number in range(8):
        assert len(gallery.search(EYE[0], where={f"n{number}": number})) == 4
    assert len(segment.columns) == 3


@pytest.mark.parametrize("every", [1, 2, 7, 1000])
def test_where__finds_the_same_in_few_rows_and_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(flat, "BLOCK_BYTES", 4096)  # several blocks
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    gallery = open_gallery(tmp_path / "gallery", kind=KIND)
    gallery.add([str(i) for i in range(3000)], rows, [{"wanted": i % every == 0} for i in range(3000)])
    gallery.delete(["0"])
    cosines = rows @ rows[1] / np.linalg.norm(rows, axis=1)
    expected = sorted(range(every, 3000, every), key=lambda i: -cosines[i])[:9]
    assert [hit.id for hit in gallery.search(rows[1], 9, {"wanted": True})] == [str(i) for i in expected]


@pytest.mark.parametrize(
    "other",
    [
        Kind(model="other", revision="1", space="student", dim=4),
        Kind(model="m", revision="2", space="student", dim=4),
        Kind(model="m", revision="1", space="teacher", dim=4),
        Kind(model="m", revision="1", space="student", dim=5),
    ],
)
def test_open__refuses_embeddings_of_another_kind(tmp_path: Path, other: Kind) -> None:
    open_gallery(tmp_path / "gallery", kind=KIND).add(["x"], EYE[:1])
    with pytest.raises(InvalidGallery, match=r"holds embeddings of m 1, student space, length 4"):
        open_gallery(tmp_path / "gallery", kind=other)


def test_open__by_model_and_space(tiny_zoo: Path, colour_photos: dict[str, Path], tmp_path: Path) -> None:
    model = leap_zoo.load("leap-tiny-test", zoo=tiny_zoo, precision="int8")
    photos = [str(path) for path in colour_photos.values()]
    with open_gallery(tmp_path / "gallery", model=model) as gallery:
        gallery.add(photos, model.embed(photos))
    same = leap_zoo.load("leap-tiny-test", zoo=tiny_zoo, precision="fp32")  # files of one revision share a gallery
    with open_gallery(tmp_path / "gallery", model=same.card) as gallery:
        assert [hits[0].id for hits in gallery.search(same.embed(photos))] == photos
    with pytest.raises(InvalidGallery, match="teacher space"):
        open_gallery(tmp_path / "gallery", model=model, space="teacher")
    with pytest.raises(UnknownSpace, match="did you mean 'teacher'"):
        open_gallery(tmp_path / "gallery", model=model, space="teachers")


def test_open__a_teachers_gallery_may_be_queried_by_its_student(
    tiny_zoo: Path, colour_photos: dict[str, Path], tmp_path: Path
) -> None:
    model = leap_zoo.load("leap-tiny-test", zoo=tiny_zoo)
    kind = Kind.of_teacher(model)
    with open_gallery(tmp_path / "gallery", kind=kind) as gallery:  # the teacher itself is elsewhere, and larger
        gallery.add(["near", "far"], np.stack([v := model.embed(colour_photos["red"], space="teacher"), -v]))
    with open_gallery(tmp_path / "gallery", model=model, space="teacher") as gallery:
        assert gallery.search(model.embed([colour_photos["red"]], space="teacher"), k=1)[0][0].id == "near"
        for write in (lambda: gallery.add(["x"], v[None]), lambda: gallery.delete(["near"])):
            with pytest.raises(InvalidGallery, match="a student may only query"):
                write()
    with pytest.raises(InvalidGallery, match="cannot be compared"):
        open_gallery(tmp_path / "gallery", model=model, space="student")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nowhere", "no gallery can be read in .*No such file"),
        ("redis://host/collection", "a gallery's URL"),
        ("qdrant://host", "a gallery's URL"),
        ("qdrant://host:99999/x", "a gallery's URL"),
        ("qdrant://host/a/b", "a gallery's URL"),
        ("qdrant://-ü/photos", "a gallery's URL"),
        ("http://user:secret@host/photos", "LEAP_ZOO_QDRANT_KEY"),
        ("qdrant://user:secret@host/a/b", "LEAP_ZOO_QDRANT_KEY"),
        ("redis://:secret@host/photos", "LEAP_ZOO_QDRANT_KEY"),
        ("qdrant://user:secret@host:99999/photos", "a gallery's URL"),
        ("qdrant://user:secret@[host/photos", "a gallery's URL"),
        ("qdrant://host/photos?api_key=secret", "a gallery's URL"),
    ],
)
def test_open__errors_say_what_to_do(tmp_path: Path, location: str, message: str) -> None:
    with pytest.raises(LeapZooError, match=message) as caught:
        open_gallery(location if "://" in location else tmp_path / location, create=False)
    assert "secret" not in str(caught.value)


def test_open__names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingExtra, match=r"pip install 'leap-zoo\[qdrant\]'"):
        open_gallery("qdrant://host/photos", kind=KIND)


def test_open__refuses_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InvalidGallery, match=r"not empty \(it contains 'holiday.jpg'\)"):
        open_gallery(tmp_path, kind=KIND)


def test_flat__one_photo_more_writes_little(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path / "gallery", kind=KIND)
    gallery.add([str(i) for i in range(5000)], np.random.default_rng(0).normal(size=(5000, 4)))
    before = {path.name: path.stat().st_ino for path in gallery.folder.iterdir()}  # type: ignore[attr-defined]
    gallery.add(["more"], EYE[:1])
    gallery.delete(["17"])
    after = {path.name: path.stat() for path in gallery.folder.iterdir()}  # type: ignore[attr-defined]
    written = sum(stat.st_size for name, stat in after.items() if before.get(name) != stat.st_ino)
    assert written < 5000


def test_flat__many_small_adds_leave_few_files(tmp_path: Path) -> None:
    gallery = FlatGallery(tmp_path / "gallery", KIND)
    for i in range(100):
        gallery.add([str(i)], EYE[i % 4 : i % 4 + 1])
    assert gallery.count() == 100
    assert len(gallery.snapshot().segments) <= 7  # log2(100)
    assert len(list(gallery.folder.iterdir())) <= 2 + 2 * 7


def test_flat__is_rewritten_when_most_rows_are_deleted(tmp_path: Path) -> None:
    gallery = FlatGallery(tmp_path / "gallery", KIND)
    gallery.add([str(i) for i in range(1600)], np.ones((1600, 4)))
    gallery.delete([str(i) for i in range(1050)])
    assert [len(segment.items) for segment in gallery.snapshot().segments] == [550]
    assert sorted(path.suffix for path in gallery.folder.iterdir()) == [".f32", ".json", ".jsonl"]
    gallery.delete([str(i) for i in range(1600)])
    assert [path.name for path in gallery.folder.iterdir()] == ["manifest.json"]


OF_0_1 = {  # a folder as leap-zoo 0.1 left it: seven items, two of them deleted, one of these added again
    "00000001-items.jsonl": (
        b'{"id":"a","metadata":{"label":"cat"}}\n{"id":"b","metadata":{"n":2}}\n{"id":"caf\xc3\xa9","metadata":{}}\n'
        b'{"id":"d","metadata":{"x":true}}\n{"id":"e","metadata":{"y":null}}\n{"id":"f","metadata":{"z":0.5}}\n'
        b'{"id":"g","metadata":{}}\n'
    ),
    "00000001-vectors.f32": bytes.fromhex(
        "0000803f00000000000000000000803f000080bf0000000000000000000080bf9a99193fcdcc4c3fcdcc4c3f9a99193f9a9919bfcdcc4c3f"
    ),
    "00000002-deleted-0.u32": bytes.fromhex("0100000003000000"),
    "00000003-items.jsonl": b'{"id":"b","metadata":{"label":"new"}}\n',
    "00000003-vectors.f32": bytes.fromhex("cdcc4c3f9a9919bf"),
}
MANIFEST_OF_0_1 = {
    "kind": {"model": "m", "revision": "1", "space": "student", "dim": 2, "metric": "cosine"},
    "generation": 3,
    "count": 6,
    "segments": [
        {"rows": 7, "vectors": "00000001-vectors.f32", "items": "00000001-items.jsonl"}
        | {"deleted": "00000002-deleted-0.u32"},
        {"rows": 1, "vectors": "00000003-vectors.f32", "items": "00000003-items.jsonl", "deleted": None},
    ],
    "dtype": "float32",
    "schema": 1,
    "sha256": "40d74d88134c837122a1c51487e936e5dd1df6ce5a53d971a05d5890987cd35c",
}


def test_flat__folder_of_the_former_version_is_read_and_written(tmp_path: Path) -> None:
    for name, data in OF_0_1.items():
        (tmp_path / name).write_bytes(data)
    text = json.dumps(MANIFEST_OF_0_1, indent=1)
    for name, data in OF_0_1.items():
        about = {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        text = text.replace(f'"{name}"', json.dumps(about, indent=1).replace("\n", "\n   "))
    (tmp_path / "manifest.json").write_text(text + "\n")
    with open_gallery(tmp_path) as gallery:
        assert gallery.kind == Kind(model="m", revision="1", space="student", dim=2)
        assert [item.id for item in gallery.items()] == ["a", "café", "e", "f", "g", "b"]
        hits = gallery.search([4, -3], k=3)
        assert [(hit.id, round(hit.score, 5)) for hit in hits] == [("b", 1), ("a", 0.8), ("f", 0.28)]
        assert (hits[0].metadata, hits[1].metadata, hits[2].metadata) == (
            {"label": "new"},
            {"label": "cat"},
            {"z": 0.5},
        )
        gallery.add(["h"], [[-4, 3]])
        assert gallery.delete(["a", "d"]) == 1
        assert [item.id for item in open_gallery(tmp_path).items()] == ["café", "e", "f", "g", "b", "h"]


def test_flat__newer_schema_is_not_called_damaged(tmp_path: Path) -> None:
    gallery = FlatGallery(tmp_path / "gallery", KIND)
    path = gallery.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2, "novelty": 1}))
    with pytest.raises(InvalidGallery, match="pip install -U leap-zoo"):
        open_gallery(gallery.folder)


@needs("qdrant_client", "qdrant")
def test_qdrant__collection_of_another_kind_or_maker_is_refused() -> None:
    from qdrant_client import QdrantClient, models

    from leap_zoo.gallery.qdrant import QdrantGallery

    client = QdrantClient(":memory:")
    client.create_collection("theirs", models.VectorParams(size=4, distance=models.Distance.COSINE))
    with pytest.raises(InvalidGallery, match="does not name the model"):
        QdrantGallery(client, "theirs", KIND)
    with pytest.raises(InvalidGallery, match="no collection photos"):
        QdrantGallery(client, "photos")
    assert QdrantGallery(client, "photos", KIND).kind == KIND
    about = {"leap_zoo": {"schema": 1, "kind": {"model": "m", "revision": "1", "space": "student", "dim": 8}}}
    shape = models.VectorParams(size=4, distance=models.Distance.COSINE)
    client.create_collection("wrong", shape, metadata=about)
    with pytest.raises(InvalidGallery, match="length 8"):
        QdrantGallery(client, "wrong")


@needs("qdrant_client", "qdrant")
def test_qdrant__server_that_wants_a_key_is_one_line() -> None:
    from qdrant_stand_in import stand_in

    with stand_in() as host, pytest.raises(InvalidGallery, match="Must provide an API key") as caught:
        open_gallery(f"http://{host}/photos", kind=KIND)
    assert "\n" not in str(caught.value)


@needs("qdrant_client", "qdrant")
def test_qdrant__server_that_is_down_is_one_line() -> None:
    with pytest.raises(InvalidGallery, match="check that the server is running") as caught:
        open_gallery("qdrant://127.0.0.1:9/photos", kind=KIND)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_open__pipe_in_place_of_the_manifest_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    for kind in (None, KIND):
        with pytest.raises(InvalidGallery, match="not a regular file"):
            open_gallery(tmp_path, kind=kind)


@pytest.mark.parametrize(
    ("location", "options", "message"),
    [
        (5, {}, "str or a Path"),
        (b"photos", {}, "str or a Path"),
        ("a\0", {}, "null character"),
        ("photos", {"model": "leap-nano"}, r"leap_zoo\.load\('leap-nano'\)"),
    ],
)
def test_open__arguments_of_a_wrong_kind(location: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        open_gallery(location, **options)


def test_open__name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(InvalidGallery, match="cannot be written"):
        open_gallery(tmp_path / ("x" * 5000), kind=KIND)


def test_add__accepts_generators_and_refuses_other_types(tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path / "new", kind=KIND)
    rows = np.eye(2, KIND.dim, dtype=np.float32)
    gallery.add((name for name in "ab"), rows, ({"n": n} for n in range(2)))  # type: ignore[arg-type]
    assert [item.metadata for item in gallery.items()] == [{"n": 0}, {"n": 1}]
    for call in (
        lambda: gallery.add(None, rows),
        lambda: gallery.add(["a", "b"], rows, 5),
        lambda: gallery.add(["a", "b"], rows, [["n"], ["n"]]),
        lambda: gallery.delete(None),
        lambda: gallery.search(rows, where=["n"]),
    ):
        with pytest.raises(InvalidArgument, match=r"must be a (list|dict)"):
            call()
