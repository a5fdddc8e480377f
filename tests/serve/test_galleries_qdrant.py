"""Galleries on a Qdrant server, behind the stores: with qdrant-client's own local mode, and over HTTP."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("pydantic", reason="needs the extra: pip install leap-zoo[serve]")
pytest.importorskip("qdrant_client", reason="needs the extra: pip install leap-zoo[qdrant]")

from refused_requests import refused
from starlette.testclient import TestClient

import leap_zoo
from leap_zoo.errors import InvalidArgument
from leap_zoo.gallery import Kind
from serve import stores as store
from serve.app import make_app
from serve.engine import Engine, Models
from serve.problems import Refused
from serve.settings import ServeSettings
from serve.stores import Limits, Stores, open_stores
from tests.leap_zoo.qdrant_stand_in import KEY, stand_in

DIM = 4
KIND = Kind(model="m", revision="1", space="student", dim=DIM)
EYE = np.eye(DIM, dtype=np.float32)


@pytest.fixture(params=["local mode", "over HTTP"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Qdrant server."""
    if request.param == "over HTTP":
        monkeypatch.setenv("LEAP_ZOO_QDRANT_KEY", KEY)
        with stand_in() as host:
            yield f"qdrant://{host}"
        return
    from qdrant_client import QdrantClient

    local = QdrantClient(":memory:")
    monkeypatch.setattr(store, "connect", lambda url: (local, ""))
    yield "qdrant://local"
    local.close()


@pytest.fixture
def open_again(url: str, tmp_path: Path) -> Callable[..., Stores]:
    """Opens stores over one and the same Qdrant, with these limits."""
    return lambda **limits: open_stores(tmp_path / "data", qdrant=url, limits=Limits(**limits))


@pytest.fixture
def stores(open_again: Callable[..., Stores]) -> Stores:
    return open_again()


def test_gallery__is_kept_on_the_server(open_again: Callable[..., Stores], tmp_path: Path) -> None:
    assert open_again().galleries.add("Cats", KIND, ["a", "b"], EYE[:2], [{"n": 1}, {"n": 2}]) == 2
    galleries = open_again().galleries
    (listed,) = galleries.list()
    assert (listed.name, listed.kind, listed.items, listed.bytes) == ("Cats", KIND, 2, None)
    assert galleries.about("Cats") == listed
    assert [hit.id for hit in galleries.search("Cats", KIND, EYE[:1], 5)[0]] == ["a", "b"]
    assert [hit.id for hit in galleries.search("Cats", KIND, EYE[:1], 5, {"n": 2})[0]] == ["b"]
    assert sorted((item.id, item.metadata["n"]) for item in galleries.items("Cats")) == [("a", 1), ("b", 2)]
    assert list((tmp_path / "data" / "galleries").iterdir()) == []


class Counting:
    """Passes calls on to a client of Qdrant, and remembers their names."""

    def __init__(self, client: object) -> None:
        self.client, self.calls = client, list[str]()

    def __getattr__(self, name: str) -> object:
        self.calls.append(name)
        return getattr(self.client, name)


def test_search__is_one_request_or_two(
    open_again: Callable[..., Stores], engine: Engine, colour_photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "KNOWN_SECONDS", 3600)
    red = {"image": colour_photos["red"].read_bytes()}
    added = TestClient(make_app(engine, open_again(), ServeSettings()))
    assert added.post("/v1/galleries/g/items?create=true", files=red, data={"id": "red"}).status_code == 200
    stores = open_again()
    stores.galleries._client = counting = Counting(stores.galleries._client)  # type: ignore[attr-defined]
    client = TestClient(make_app(engine, stores, ServeSettings()))
    asked = []
    for _ in range(2):
        (hits,) = client.post("/v1/galleries/g/search", files=red).json()["hits"]
        assert [hit["id"] for hit in hits] == ["red"]
        asked.append(list(counting.calls))
        counting.calls.clear()
    assert asked == [["get_collection", "query_batch_points"], ["query_batch_points"]]


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")  # in the local mode
def test_add__indexes_each_name_of_metadata_once(open_again: Callable[..., Stores]) -> None:
    """Without an index, `where` reads every point of the collection."""
    galleries = open_again().galleries
    galleries.make("g", KIND)
    galleries._client = counting = Counting(galleries._client)  # type: ignore[attr-defined]
    galleries._opened.clear()  # type: ignore[attr-defined]
    galleries.add("g", KIND, ["a", "b"], EYE[:2], [{"label": "sea", "number": 1}, {"label": "wood", "warm": True}])
    galleries.add("g", KIND, ["c"], EYE[2:3], [{"label": "sea", "ratio": 0.5, "none": None}])
    assert counting.calls.count("create_payload_index") == 3
    galleries.add("g", KIND, ["d"], EYE[3:], [{f"n{number}": number for number in range(40)}])
    assert counting.calls.count("create_payload_index") == 16
    assert [hit.id for hit in galleries.search("g", KIND, EYE[:1], 5, {"n39": 39})[0]] == ["d"]


def test_gallery__replaced_by_another_service_is_read_again(
    open_again: Callable[..., Stores], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "KNOWN_SECONDS", 0)
    ours, theirs = open_again().galleries, open_again().galleries
    ours.add("g", KIND, ["a"], EYE[:1])
    other = Kind(model="m", revision="2", space="student", dim=DIM)
    theirs.delete("g")
    assert refused(lambda: ours.search("g", KIND, EYE[:1], 1)) == (404, "unknown_gallery")
    theirs.add("g", other, ["a"], EYE[:1])
    assert refused(lambda: ours.search("g", KIND, EYE[:1], 1)) == (409, "other_embeddings")


def test_gallery__items_are_replaced_and_deleted(stores: Stores) -> None:
    stores.galleries.add("g", KIND, ["a", "b"], EYE[:2])
    assert stores.galleries.add("g", KIND, ["a"], EYE[2:3]) == 2
    assert stores.galleries.search("g", KIND, EYE[2:3], 1)[0][0].id == "a"
    assert stores.galleries.delete_items("g", ["a", "nobody"]) == 1
    assert [item.id for item in stores.galleries.items("g")] == ["b"]


def test_gallery__deleted_makes_room_for_another_kind(stores: Stores) -> None:
    stores.galleries.add("g", KIND, ["a"], EYE[:1])
    other = Kind(model="m", revision="2", space="student", dim=DIM)
    assert refused(lambda: stores.galleries.add("g", other, ["a"], EYE[:1])) == (409, "other_embeddings")
    assert refused(lambda: stores.galleries.search("g", other, EYE[:1], 1)) == (409, "other_embeddings")
    stores.galleries.delete("g")
    assert stores.galleries.add("g", other, ["a"], EYE[:1]) == 1


def test_gallery__missing(stores: Stores) -> None:
    for call in (
        lambda: stores.galleries.about("g"),
        lambda: stores.galleries.search("g", KIND, EYE[:1], 1),
        lambda: stores.galleries.items("g"),
        lambda: stores.galleries.export("g", io.BytesIO()),
        lambda: stores.galleries.delete_items("g", ["a"]),
        lambda: stores.galleries.delete("g"),
    ):
        assert refused(call) == (404, "unknown_gallery")


def test_names__that_differ_in_case_are_apart(stores: Stores) -> None:
    for count, name in enumerate(("Cats", "cats", "c_a.t-s"), 1):
        stores.galleries.add(name, KIND, [str(n) for n in range(count)], EYE[:count])
    assert {one.name: one.items for one in stores.galleries.list()} == {"Cats": 1, "cats": 2, "c_a.t-s": 3}


def test_names__too_long_for_a_collection(stores: Stores) -> None:
    assert refused(lambda: stores.galleries.add("A" * 64, KIND, ["a"], EYE[:1])) == (422, "invalid_name")
    assert stores.galleries.add("a" * 64, KIND, ["a"], EYE[:1]) == 1


def test_server__shared_with_others_lists_only_own_collections(stores: Stores, url: str) -> None:
    from qdrant_client import models

    client, _ = store.connect(url)
    shape = models.VectorParams(size=4, distance=models.Distance.COSINE)
    for name in ("theirs", "leap-zoo-A B"):
        client.create_collection(name, vectors_config=shape)
    stores.galleries.add("ours", KIND, ["a"], EYE[:1])
    assert [one.name for one in stores.galleries.list()] == ["ours"]
    assert refused(lambda: stores.galleries.delete("theirs")) == (404, "unknown_gallery")
    assert client.collection_exists("theirs")


def test_limits__hold_there_too(open_again: Callable[..., Stores]) -> None:
    galleries = open_again(galleries=1, items=2).galleries
    assert refused(lambda: galleries.add("g", KIND, ["a", "b", "c"], EYE[:3])) == (409, "gallery_full")
    galleries.add("g", KIND, ["a", "b"], EYE[:2])
    assert galleries.add("g", KIND, ["a", "b"], EYE[2:]) == 2
    assert refused(lambda: galleries.add("g", KIND, ["c"], EYE[:1])) == (409, "gallery_full")
    assert refused(lambda: galleries.add("h", KIND, ["a"], EYE[:1])) == (409, "too_many_galleries")


def test_export__is_an_npz(stores: Stores) -> None:
    stores.galleries.add("g", KIND, ["a", "b"], EYE[:2], [{"n": 1}, {}])
    export = io.BytesIO()
    stores.galleries.export("g", export)
    with np.load(export, allow_pickle=False) as file:
        at = file["ids"].tolist()
        assert sorted(at) == ["a", "b"]
        np.testing.assert_allclose(file["embeddings"][at.index("a")], EYE[0])
        assert file["metadata"].tobytes().splitlines()[at.index("a")] == b'{"n":1}'


def test_server__that_is_gone_is_reported_without_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LEAP_ZOO_QDRANT_KEY", KEY)
    with stand_in() as host:
        stores = open_stores(tmp_path, qdrant=f"qdrant://{host}")
        stores.galleries.add("g", KIND, ["a"], EYE[:1])
    for call in (
        stores.galleries.list,
        lambda: stores.galleries.search("g", KIND, EYE[:1], 1),
        lambda: stores.galleries.delete("g"),
    ):
        with pytest.raises(Refused) as caught:
            call()
        assert (caught.value.status, caught.value.code) == (503, "store_unavailable")
        assert host not in caught.value.detail
    assert "check that the server is running" in caplog.text
    stores.close()


def test_open__invalid_url_is_one_line(tmp_path: Path) -> None:
    for url in ("qdrant://host/collection", "qdrant://user:secret@host", "ftp://host"):
        with pytest.raises(InvalidArgument) as caught:
            open_stores(tmp_path, qdrant=url)
        assert "secret" not in str(caught.value)


def test_server__that_hangs_keeps_no_photo_waiting(
    tmp_path: Path, tiny_zoo: Path, colour_photos: dict[str, Path]
) -> None:
    red = {"content": colour_photos["red"].read_bytes(), "headers": {"content-type": "image/jpeg"}}
    engine = Engine(Models(leap_zoo.load("leap-tiny-test", zoo=tiny_zoo, threads=1)), threads=1)

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            stores = open_stores(tmp_path, qdrant=f"qdrant://127.0.0.1:{silent.getsockname()[1]}")
            app = make_app(engine, stores, ServeSettings())
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
                waiting = [asyncio.create_task(client.get("/v1/galleries")) for _ in range(4)]
                await asyncio.sleep(0.2)
                assert (await client.post("/v1/classify", **red)).status_code == 200
                assert not any(one.done() for one in waiting)
                silent.close()
                assert {(await one).json()["code"] for one in waiting} == {"store_unavailable"}
            stores.close()

    asyncio.run(asyncio.wait_for(run(), 120))
