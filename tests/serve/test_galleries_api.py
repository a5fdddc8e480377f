"""/v1/gallery and /v1/search through the application: every route, and everything that is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refusal, text
from starlette.testclient import TestClient

from leap_zoo.gallery import Kind
from serve.app import make_app
from serve.engine import Engine
from serve.settings import ServeSettings
from serve.stores import open_stores
from serve.stores.limits import Limits

JPEG = {"content-type": "image/jpeg"}
TINY = "leap-tiny-test"
BAD_NAMES = ["%2e%2e", ".a", "-a", "a%20b", "a%00", "%C3%A4", "a" * 65, "a%0A"]

Opener = Callable[..., TestClient]


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Opener]:
    """`site(items=3)`: a client of the API over one data folder, with these limits; again: after a restart."""
    opened: list[TestClient] = []

    def open_site(**limits: int) -> TestClient:
        stores = open_stores(tmp_path / "data", limits=Limits(**limits))
        app = make_app(engine, stores, ServeSettings(max_photos=4))
        opened.append(TestClient(app, raise_server_exceptions=False))
        return opened[-1]

    yield open_site
    for client in opened:
        client.app.state.stores.close()  # type: ignore[attr-defined]


@pytest.fixture
def api(site: Opener) -> TestClient:
    return site()


@pytest.fixture(scope="module")
def photos(colour_photos: dict[str, Path]) -> dict[str, bytes]:
    return {colour: path.read_bytes() for colour, path in colour_photos.items()}


@pytest.fixture
def colours(api: TestClient, photos: dict[str, bytes]) -> TestClient:
    """A client of an API that has a gallery `colours` with three photos."""
    body = {
        "images": [text(photo) for photo in photos.values()],
        "ids": list(photos),
        "metadata": [{"warm": colour == "red", "number": at, "name": colour} for at, colour in enumerate(photos)],
    }
    assert api.post("/v1/gallery/colours", json=body).status_code == 200
    return api


def ids_of(client: TestClient, name: str) -> list[str]:
    return [item["id"] for item in client.get(f"/v1/gallery/{name}/items").json()["items"]]


def hits(client: TestClient, query: str, photo: bytes) -> list[dict[str, Any]]:
    response = client.post(f"/v1/search?{query}", content=photo, headers=JPEG)
    assert response.status_code == 200, response.text
    (found,) = response.json()["hits"]
    return list(found)


# what works


def test_add__three_ways_to_send_photos_keep_the_same_items(api: TestClient, photos: dict[str, bytes]) -> None:
    fields = [{"warm": colour == "red"} for colour in photos]
    form: list[tuple[str, Any]] = []
    for (colour, photo), one in zip(photos.items(), fields, strict=True):
        form += [("image", ("../../etc/passwd", photo)), ("id", (None, colour)), ("metadata", (None, json.dumps(one)))]
    by_form = api.post("/v1/gallery/form", files=form)
    by_json = api.post(
        "/v1/gallery/json", json={"images": [text(p) for p in photos.values()], "ids": [*photos], "metadata": fields}
    )
    assert by_form.status_code == by_json.status_code == 200
    assert by_form.json()["ids"] == by_json.json()["ids"] == ["red", "green", "blue"]
    assert (by_form.json()["items"], by_form.json()["dim"], by_form.json()["model"]) == (3, 8, TINY)
    for photo in photos.values():
        raw = api.post("/v1/gallery/raw", content=photo, headers=JPEG).json()
    assert raw["items"] == 3
    pages = [api.get(f"/v1/gallery/{name}/items").json()["items"] for name in ("form", "json")]
    assert pages[0] == pages[1]
    assert [item["metadata"] for item in pages[0]] == fields
    found = [[hit["score"] for hit in hits(api, f"gallery={name}", photos["red"])] for name in ("form", "json", "raw")]
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)


def test_add__without_an_id_the_same_photo_is_one_item(api: TestClient, photos: dict[str, bytes]) -> None:
    files = [("image", photos["red"])] * 2 + [("image", photos["blue"])]
    first = api.post("/v1/gallery/g", files=files).json()
    again = api.post("/v1/gallery/g", content=photos["red"], headers=JPEG).json()
    assert (first["items"], again["items"], again["ids"]) == (2, 2, first["ids"][:1])


def test_add__the_same_id_is_replaced(colours: TestClient, photos: dict[str, bytes]) -> None:
    changed = colours.post(
        "/v1/gallery/colours", json={"images": [text(photos["blue"])], "ids": ["red"], "metadata": [{"now": "blue"}]}
    )
    assert changed.json()["items"] == 3
    top = hits(colours, "gallery=colours&k=2", photos["blue"])
    assert {hit["id"] for hit in top} == {"red", "blue"}
    assert {"now": "blue"} in [hit["metadata"] for hit in top]


def test_show_and_list__say_whose_embeddings(colours: TestClient, photos: dict[str, bytes]) -> None:
    colours.post("/v1/gallery/Teachers?space=teacher", content=photos["red"], headers=JPEG)
    listed = {one["name"]: one for one in colours.get("/v1/gallery").json()["galleries"]}
    assert sorted(listed) == ["Teachers", "colours"]
    assert listed["colours"] == colours.get("/v1/gallery/colours").json()
    shown = {key: value for key, value in listed["colours"].items() if key != "bytes"}
    assert shown == {"name": "colours", "model": TINY, "revision": "1", "space": "student", "dim": 8, "items": 3}
    assert (listed["Teachers"]["space"], listed["Teachers"]["dim"]) == ("teacher", 12)
    assert listed["colours"]["bytes"] > 3 * 8 * 4


def test_gallery__is_there_after_a_restart(colours: TestClient, site: Opener, photos: dict[str, bytes]) -> None:
    again = site()
    assert ids_of(again, "colours") == list(photos)
    assert hits(again, "gallery=colours&k=1", photos["green"])[0]["id"] == "green"


def test_search__finds_the_nearest_of_each_of_many_photos(colours: TestClient, photos: dict[str, bytes]) -> None:
    body = colours.post("/v1/search?gallery=colours&k=1", files=[("image", photo) for photo in photos.values()]).json()
    assert [found[0]["id"] for found in body["hits"]] == list(photos)
    assert [found[0]["score"] for found in body["hits"]] == pytest.approx([1, 1, 1], abs=1e-4)
    assert (body["gallery"], body["space"], body["dim"]) == ("colours", "student", 8)


@pytest.mark.parametrize(("k", "count"), [(1, 1), (2, 2), (100, 3)])
def test_search__answers_k_items_nearest_first(
    colours: TestClient, photos: dict[str, bytes], k: int, count: int
) -> None:
    scores = [hit["score"] for hit in hits(colours, f"gallery=colours&k={k}", photos["red"])]
    assert len(scores) == count
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ('{"warm":true}', {"red"}),
        ('{"warm":false}', {"green", "blue"}),
        ('{"number":2}', {"blue"}),
        ('{"name":"green"}', {"green"}),
        ('{"warm":false,"number":1}', {"green"}),
        ('{"warm":true,"number":1}', set()),
        ('{"nobody":"has this"}', set()),
        ("{}", {"red", "green", "blue"}),
    ],
)
def test_search__where(colours: TestClient, photos: dict[str, bytes], where: str, found: set[str]) -> None:
    response = colours.post("/v1/search", params={"gallery": "colours", "where": where}, files={"image": photos["red"]})
    assert {hit["id"] for hit in response.json()["hits"][0]} == found


def test_search__takes_the_gallerys_space(api: TestClient, photos: dict[str, bytes]) -> None:
    api.post("/v1/gallery/t?space=teacher", files=[("image", photo) for photo in photos.values()])
    body = api.post("/v1/search?gallery=t&k=1", content=photos["red"], headers=JPEG).json()
    assert (body["space"], body["dim"], round(body["hits"][0][0]["score"], 3)) == ("teacher", 12, 1)


def test_items__in_pages(colours: TestClient, photos: dict[str, bytes]) -> None:
    page = colours.get("/v1/gallery/colours/items?offset=1&limit=1").json()
    assert page == {
        "items": [{"id": "green", "metadata": {"warm": False, "number": 1, "name": "green"}}],
        "offset": 1,
        "total": 3,
    }
    assert colours.get("/v1/gallery/colours/items?offset=3").json()["items"] == []


def test_delete_items__takes_out_those_that_are_there(colours: TestClient, photos: dict[str, bytes]) -> None:
    answer = colours.delete("/v1/gallery/colours/items?id=red&id=nobody&id=red")
    assert answer.json() == {"deleted": 1}
    assert ids_of(colours, "colours") == ["green", "blue"]
    assert "red" not in {hit["id"] for hit in hits(colours, "gallery=colours", photos["red"])}


def test_delete__makes_room_for_another_kind(colours: TestClient, photos: dict[str, bytes]) -> None:
    assert colours.delete("/v1/gallery/colours").status_code == 204
    assert colours.get("/v1/gallery").json() == {"galleries": []}
    assert refusal(colours.get("/v1/gallery/colours")) == ("unknown_gallery", None)
    again = colours.post("/v1/gallery/colours?space=teacher", content=photos["red"], headers=JPEG)
    assert (again.json()["items"], again.json()["space"]) == (1, "teacher")


def test_export__is_read_by_numpy(colours: TestClient, photos: dict[str, bytes]) -> None:
    response = colours.get("/v1/gallery/colours/export")
    assert response.headers["content-disposition"] == 'attachment; filename="colours.npz"'
    with np.load(io.BytesIO(response.content), allow_pickle=False) as file:
        assert file["ids"].tolist() == list(photos)
        assert [str(file[name]) for name in ("model", "revision", "space")] == [TINY, "1", "student"]
        embeddings, metadata = file["embeddings"], file["metadata"].tobytes().decode()
    assert [json.loads(line)["name"] for line in metadata.splitlines()] == list(photos)
    expected = colours.post("/v1/embed", files=[("image", photo) for photo in photos.values()]).json()["embeddings"]
    assert embeddings == pytest.approx(np.array(expected), abs=1e-6)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-5)


# what is refused


@pytest.mark.parametrize("name", BAD_NAMES)
def test_name__that_is_none(api: TestClient, photos: dict[str, bytes], name: str) -> None:
    path = f"/v1/gallery/{name}"
    for response in (
        api.get(path),
        api.delete(path),
        api.get(path + "/items"),
        api.get(path + "/export"),
        api.delete(path + "/items?id=a"),
        api.post(path, content=photos["red"], headers=JPEG),
    ):
        assert refusal(response) == ("invalid_name", None)
    if len(name) < 65:
        response = api.post(f"/v1/search?gallery={name}", content=photos["red"], headers=JPEG)
        assert refusal(response) == ("invalid_name", None)
    assert api.get("/v1/gallery").json() == {"galleries": []}


def test_gallery__nobody_has(api: TestClient, photos: dict[str, bytes]) -> None:
    for response in (
        api.get("/v1/gallery/g"),
        api.delete("/v1/gallery/g"),
        api.get("/v1/gallery/g/items"),
        api.get("/v1/gallery/g/export"),
        api.delete("/v1/gallery/g/items?id=a"),
        api.post("/v1/search?gallery=g", content=photos["red"], headers=JPEG),
    ):
        assert refusal(response) == ("unknown_gallery", None)


def test_kind__of_another_model_or_space(colours: TestClient, photos: dict[str, bytes]) -> None:
    for query in ("space=teacher", "model=leap-nano"):
        for path in (f"/v1/gallery/colours?{query}", f"/v1/search?gallery=colours&{query}"):
            response = colours.post(path, content=photos["red"], headers=JPEG)
            assert refusal(response) == ("other_embeddings", None)
    same = colours.post(f"/v1/gallery/colours?space=student&model={TINY}", content=photos["red"], headers=JPEG)
    assert same.json()["items"] == 4


def test_kind__of_another_revision(api: TestClient, photos: dict[str, bytes]) -> None:
    """As after an update of the model: the gallery is there, is told apart, and can be exported and deleted."""
    old = Kind(model=TINY, revision="0", space="student", dim=8)
    api.app.state.stores.galleries.add("old", old, ["a"], np.eye(1, 8, dtype=np.float32))  # type: ignore[attr-defined]
    for path in ("/v1/gallery/old", "/v1/search?gallery=old"):
        response = api.post(path, content=photos["red"], headers=JPEG)
        assert refusal(response) == ("other_embeddings", None)
    assert api.get("/v1/gallery/old").json()["revision"] == "0"
    assert api.get("/v1/gallery/old/export").status_code == 200
    assert api.delete("/v1/gallery/old").status_code == 204


def test_photos__the_first_bad_one_is_named_and_none_is_added(colours: TestClient, photos: dict[str, bytes]) -> None:
    red = photos["red"]
    for bad, code in ((b"no photo", "not_an_image"), (red[:300], "undecodable_image"), (b"", "missing_photo")):
        files = [("image", photos["blue"]), ("image", bad), ("image", bad)]
        texts = {"images": [text(photo) for _, photo in files]}
        for path in ("/v1/gallery/colours", "/v1/gallery/new", "/v1/search?gallery=colours"):
            assert refusal(colours.post(path, files=files)) == (code, 1)
            assert refusal(colours.post(path, json=texts)) == (code, 1)
    assert [one["name"] for one in colours.get("/v1/gallery").json()["galleries"]] == ["colours"]
    assert len(ids_of(colours, "colours")) == 3


def test_photos__too_many(colours: TestClient, photos: dict[str, bytes]) -> None:
    for path in ("/v1/gallery/colours", "/v1/search?gallery=colours"):
        assert refusal(colours.post(path, files=[("image", photos["red"])] * 5)) == ("too_many_photos", None)
        assert refusal(colours.post(path, json={"images": ["AA=="] * 5})) == ("too_many_photos", None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ids": ["a"]}, ("uneven_items", None)),
        ({"ids": ["a", "b", "c"]}, ("uneven_items", None)),
        ({"metadata": [{}]}, ("uneven_items", None)),
        ({"ids": ["a", "a"]}, ("invalid_id", None)),
        ({"ids": ["a", ""]}, ("invalid_id", None)),
        ({"ids": ["a", "i" * 257]}, ("invalid_id", 1)),
        ({"metadata": [{}, {"a b": 1}]}, ("invalid_metadata", None)),
        ({"metadata": [{}, {"a": "x" * 20_000}]}, ("invalid_metadata", None)),
        ({"metadata": [{}, {"a": [1]}]}, ("invalid_body", None)),
        ({"metadata": {}}, ("invalid_body", None)),
        ({"ids": [1, 2]}, ("invalid_body", None)),
        ({"names": ["a", "b"]}, ("invalid_body", None)),
    ],
)
def test_json__ids_and_metadata(
    api: TestClient, photos: dict[str, bytes], fields: dict[str, Any], expected: tuple[str, int | None]
) -> None:
    body = {"images": [text(photos["red"]), text(photos["blue"])]} | fields
    assert refusal(api.post("/v1/gallery/g", json=body)) == expected
    assert api.get("/v1/gallery").json() == {"galleries": []}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([("id", "a"), ("id", "b")], "uneven_items"),
        ([("metadata", "{}"), ("metadata", "{}")], "uneven_items"),
        ([("metadata", "{")], "broken_json"),
        ([("metadata", "[]")], "invalid_body"),
        ([("title", "a")], "unexpected_field"),
        ([("image", "text")], "unexpected_field"),
        ([("id", "a" * 70_000)], "broken_form"),
    ],
)
def test_form__fields(api: TestClient, photos: dict[str, bytes], fields: list[tuple[str, str]], code: str) -> None:
    files = [("image", ("photo", photos["red"])), *((name, (None, value)) for name, value in fields)]
    assert refusal(api.post("/v1/gallery/g", files=files)) == (code, None)


def test_body__that_is_none(api: TestClient) -> None:
    for path in ("/v1/gallery/g", "/v1/search?gallery=g"):
        response = api.post(path, content=b"x", headers={"content-type": "text/plain"})
        assert refusal(response)[0] in ("unsupported_content_type", "unknown_gallery")
    assert refusal(api.post("/v1/gallery/g")) == ("missing_photo", None)
    assert refusal(api.post("/v1/gallery/g", json={"images": []})) == ("missing_photo", None)
    broken = api.post("/v1/gallery/g", content=b"--x", headers={"content-type": "multipart/form-data; boundary=x"})
    assert refusal(broken)[0] in ("broken_form", "missing_photo")
    without = api.post("/v1/gallery/g", content=b"--x", headers={"content-type": "multipart/form-data"})
    assert refusal(without) == ("broken_form", None)


@pytest.mark.parametrize(
    "query",
    [
        "k=0",
        "k=101",
        "k=x",
        "where=[]",
        "where={",
        'where={"a":1.5}',
        'where={"a":null}',
        'where={"a b":1}',
        "where=" + "[" * 4000,
        "space=both",
        "topk=3",
        "precision=int4",
    ],
)
def test_search__options(colours: TestClient, photos: dict[str, bytes], query: str) -> None:
    response = colours.post(f"/v1/search?gallery=colours&{query}", content=photos["red"], headers=JPEG)
    assert refusal(response) == ("invalid_option", None)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v1/search", "invalid_option"),
        ("POST", "/v1/gallery/g?model=leap-none", "unknown_model"),
        ("POST", "/v1/gallery/g?id=a", "invalid_option"),
        ("GET", "/v1/gallery/colours/items?limit=0", "invalid_option"),
        ("GET", "/v1/gallery/colours/items?limit=1001", "invalid_option"),
        ("GET", "/v1/gallery/colours/items?offset=-1", "invalid_option"),
        ("DELETE", "/v1/gallery/colours/items", "invalid_option"),
        ("DELETE", "/v1/gallery/colours/items?id=", "invalid_id"),
        ("PUT", "/v1/gallery/colours", "wrong_method"),
    ],
)
def test_options__of_the_other_routes(
    colours: TestClient, photos: dict[str, bytes], method: str, path: str, code: str
) -> None:
    content = photos["red"] if method == "POST" else None
    assert refusal(colours.request(method, path, content=content, headers=JPEG)) == (code, None)
    assert len(ids_of(colours, "colours")) == 3


def test_limits__are_conflicts_and_lose_nothing(site: Opener, photos: dict[str, bytes]) -> None:
    api = site(galleries=1, items=2)
    files = [("image", photo) for photo in photos.values()]
    assert refusal(api.post("/v1/gallery/g", files=files)) == ("gallery_full", None)
    assert api.post("/v1/gallery/g", files=files[:2]).json()["items"] == 2
    assert refusal(api.post("/v1/gallery/g", files=files[2:])) == ("gallery_full", None)
    assert api.post("/v1/gallery/g", files=files[:2]).json()["items"] == 2  # they are there already
    assert refusal(api.post("/v1/gallery/h", files=files[:1])) == ("too_many_galleries", None)
    full = site(gallery_bytes=100)
    assert refusal(full.post("/v1/gallery/g", files=files[:1])) == ("store_full", None)
    assert len(ids_of(full, "g")) == 2
    assert full.delete("/v1/gallery/g").status_code == 204


def test_damaged__gallery_is_told_without_a_path_and_can_be_deleted(
    colours: TestClient, site: Opener, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    for file in (tmp_path / "data" / "galleries" / "colours").iterdir():
        file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    again = site()
    response = again.post("/v1/search?gallery=colours", content=photos["red"], headers=JPEG)
    assert refusal(response) == ("gallery_damaged", None)
    assert str(tmp_path) not in response.text
    assert again.post("/v1/gallery/other", content=photos["red"], headers=JPEG).status_code == 200
    assert [one["name"] for one in again.get("/v1/gallery").json()["galleries"]] == ["other"]
    assert again.delete("/v1/gallery/colours").status_code == 204
