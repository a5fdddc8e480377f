"""/v1/galleries: everything that is refused, and that nothing is lost or made by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused_requests import refusal, text
from starlette.testclient import TestClient

from leap_zoo.gallery import Kind
from serve.engine import Engine

JPEG = {"content-type": "image/jpeg"}
TINY = "leap-tiny-test"
BAD_NAMES = ["%2e%2e", ".a", "-a", "a%20b", "a%00", "%C3%A4", "a" * 65, "a%0A"]

Opener = Callable[..., TestClient]


@pytest.fixture(scope="module")
def photos(colour_photos: dict[str, Path]) -> dict[str, bytes]:
    return {colour: path.read_bytes() for colour, path in colour_photos.items()}


def ids_of(client: TestClient, name: str) -> list[str]:
    return [item["id"] for item in client.get(f"/v1/galleries/{name}/items").json()["items"]]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_name__invalid(api: TestClient, photos: dict[str, bytes], name: str) -> None:
    path = f"/v1/galleries/{name}"
    for response in (
        api.get(path),
        api.delete(path),
        api.get(path + "/items"),
        api.get(path + "/export"),
        api.delete(path + "/items?id=a"),
        api.post(path + "/items?create=true", content=photos["red"], headers=JPEG),
    ):
        assert refusal(response) == ("invalid_name", None)
    if len(name) < 65:
        response = api.post(f"/v1/galleries/{name}/search", content=photos["red"], headers=JPEG)
        assert refusal(response) == ("invalid_name", None)
    assert api.get("/v1/galleries").json() == {"galleries": []}


def test_gallery__missing(api: TestClient, photos: dict[str, bytes]) -> None:
    for response in (
        api.get("/v1/galleries/g"),
        api.delete("/v1/galleries/g"),
        api.get("/v1/galleries/g/items"),
        api.get("/v1/galleries/g/export"),
        api.delete("/v1/galleries/g/items?id=a"),
        api.post("/v1/galleries/g/search", content=photos["red"], headers=JPEG),
    ):
        assert refusal(response) == ("unknown_gallery", None)


def test_kind__of_another_model_or_space(colours: TestClient, photos: dict[str, bytes]) -> None:
    for query in ("space=teacher", "model=leap-nano"):
        for path in (f"/v1/galleries/colours/items?{query}", f"/v1/galleries/colours/search?{query}"):
            response = colours.post(path, content=photos["red"], headers=JPEG)
            assert refusal(response) == ("other_embeddings", None)
    same = colours.post(
        f"/v1/galleries/colours/items?create=true&space=student&model={TINY}", content=photos["red"], headers=JPEG
    )
    assert same.json()["items"] == 4


def test_kind__of_another_revision(api: TestClient, photos: dict[str, bytes]) -> None:
    """As after an update of the model: the gallery is there, is told apart, and can be exported and deleted."""
    old = Kind(model=TINY, revision="0", space="student", dim=8)
    api.app.state.stores.galleries.add("old", old, ["a"], np.eye(1, 8, dtype=np.float32))  # type: ignore[attr-defined]
    for path in ("/v1/galleries/old/items", "/v1/galleries/old/search"):
        response = api.post(path, content=photos["red"], headers=JPEG)
        assert refusal(response) == ("other_embeddings", None)
    assert api.get("/v1/galleries/old").json()["revision"] == "0"
    assert api.get("/v1/galleries/old/export").status_code == 200
    assert api.delete("/v1/galleries/old").status_code == 204


def test_photos__the_first_bad_one_is_named_and_none_is_added(colours: TestClient, photos: dict[str, bytes]) -> None:
    red = photos["red"]
    for bad, code in ((b"no photo", "not_an_image"), (red[:300], "undecodable_image"), (b"", "missing_photo")):
        files = [("image", photos["blue"]), ("image", bad), ("image", bad)]
        texts = {"images": [text(photo) for _, photo in files]}
        for path in (
            "/v1/galleries/colours/items",
            "/v1/galleries/new/items?create=true",
            "/v1/galleries/colours/search",
        ):
            assert refusal(colours.post(path, files=files)) == (code, 1)
            assert refusal(colours.post(path, json=texts)) == (code, 1)
    assert [one["name"] for one in colours.get("/v1/galleries").json()["galleries"]] == ["colours"]
    assert len(ids_of(colours, "colours")) == 3


def test_photos__too_many(colours: TestClient, photos: dict[str, bytes]) -> None:
    for path in ("/v1/galleries/colours/items", "/v1/galleries/colours/search"):
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
        ({"ids": ["a", "a\0"]}, ("invalid_id", None)),
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
    assert refusal(api.post("/v1/galleries/g/items?create=true", json=body)) == expected
    assert api.get("/v1/galleries").json() == {"galleries": []}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([("id", "a"), ("id", "b")], "uneven_items"),
        ([("metadata", "{}"), ("metadata", "{}")], "uneven_items"),
        ([("metadata", "{")], "broken_json"),
        ([("metadata", "[]")], "invalid_body"),
        ([("title", "a")], "unexpected_field"),
        ([("image", "text")], "image_is_text"),
        ([("id", "a" * 70_000)], "broken_form"),
    ],
)
def test_form__fields(api: TestClient, photos: dict[str, bytes], fields: list[tuple[str, str]], code: str) -> None:
    files = [("image", ("photo", photos["red"])), *((name, (None, value)) for name, value in fields)]
    assert refusal(api.post("/v1/galleries/g/items?create=true", files=files)) == (code, None)


def test_body__invalid(api: TestClient) -> None:
    for path in ("/v1/galleries/g/items", "/v1/galleries/g/search"):
        response = api.post(path, content=b"x", headers={"content-type": "text/plain"})
        assert refusal(response)[0] in ("unsupported_content_type", "unknown_gallery")
    assert refusal(api.post("/v1/galleries/g/items?create=true")) == ("missing_photo", None)
    assert refusal(api.post("/v1/galleries/g/items?create=true", json={"images": []})) == ("missing_photo", None)
    broken = api.post(
        "/v1/galleries/g/items?create=true", content=b"--x", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert refusal(broken)[0] in ("broken_form", "missing_photo")
    without = api.post(
        "/v1/galleries/g/items?create=true", content=b"--x", headers={"content-type": "multipart/form-data"}
    )
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
    ],
)
def test_search__options(colours: TestClient, photos: dict[str, bytes], query: str) -> None:
    response = colours.post(f"/v1/galleries/colours/search?{query}", content=photos["red"], headers=JPEG)
    assert refusal(response) == ("invalid_option", None)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ('{"a b":1}', "'a b' has an invalid name"),
        ('{"a":1.5}', "'a' must be a string, a whole number or a boolean, not 1.5"),
        ("[]", "should be a valid dictionary"),
        (str({f"n{n}": n for n in range(9)}).replace("'", '"'), "at most 8 items"),
    ],
)
def test_where__is_checked_before_a_photo_is_embedded(
    colours: TestClient, engine: Engine, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, where: str, why: str
) -> None:
    """400 unknown names in `where`, on 100,000 items, took 11 s of processor time a request."""
    embedded: list[object] = []
    monkeypatch.setattr(engine, "embed", embedded.append)
    path = "/v1/galleries/colours/search"
    response = colours.post(path, params={"where": where}, content=photos["red"], headers=JPEG)
    assert refusal(response) == ("invalid_option", None)
    assert why in response.json()["detail"]
    assert embedded == []


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v1/search", "unknown_path"),
        ("POST", "/v1/galleries/g/items?create=true&model=leap-none", "unknown_model"),
        ("POST", "/v1/galleries/g/items?id=a", "invalid_option"),
        ("GET", "/v1/galleries/colours/items?limit=0", "invalid_option"),
        ("GET", "/v1/galleries/colours/items?limit=1001", "invalid_option"),
        ("GET", "/v1/galleries/colours/items?offset=-1", "invalid_option"),
        ("DELETE", "/v1/galleries/colours/items", "invalid_option"),
        ("DELETE", "/v1/galleries/colours/items?id=", "invalid_id"),
        ("PATCH", "/v1/galleries/colours", "wrong_method"),
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
    assert refusal(api.post("/v1/galleries/g/items?create=true", files=files)) == ("gallery_full", None)
    assert api.post("/v1/galleries/g/items?create=true", files=files[:2]).json()["items"] == 2
    assert refusal(api.post("/v1/galleries/g/items?create=true", files=files[2:])) == ("gallery_full", None)
    assert api.post("/v1/galleries/g/items?create=true", files=files[:2]).json()["items"] == 2  # they are there already
    assert refusal(api.post("/v1/galleries/h/items?create=true", files=files[:1])) == ("too_many_galleries", None)
    full = site(gallery_bytes=100)
    assert refusal(full.post("/v1/galleries/g/items?create=true", files=files[:1])) == ("store_full", None)
    assert len(ids_of(full, "g")) == 2
    assert full.delete("/v1/galleries/g").status_code == 204


def test_damaged_gallery__is_reported_without_a_path_and_can_be_deleted(
    colours: TestClient, site: Opener, tmp_path: Path, photos: dict[str, bytes]
) -> None:
    for file in (tmp_path / "data" / "galleries" / "colours").iterdir():
        file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    again = site()
    response = again.post("/v1/galleries/colours/search", content=photos["red"], headers=JPEG)
    assert refusal(response) == ("gallery_damaged", None)
    assert str(tmp_path) not in response.text
    assert again.post("/v1/galleries/other/items?create=true", content=photos["red"], headers=JPEG).status_code == 200
    assert [one["name"] for one in again.get("/v1/galleries").json()["galleries"]] == ["other"]
    assert again.delete("/v1/galleries/colours").status_code == 204
