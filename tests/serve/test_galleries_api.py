"""/v1/galleries through the application: every route. What they refuse is in test_galleries_refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused_requests import refusal, text
from starlette.testclient import TestClient

JPEG = {"content-type": "image/jpeg"}
TINY = "leap-tiny-test"
BAD_NAMES = ["%2e%2e", ".a", "-a", "a%20b", "a%00", "%C3%A4", "a" * 65, "a%0A"]

Opener = Callable[..., TestClient]


@pytest.fixture(scope="module")
def photos(colour_photos: dict[str, Path]) -> dict[str, bytes]:
    return {colour: path.read_bytes() for colour, path in colour_photos.items()}


def ids_of(client: TestClient, name: str) -> list[str]:
    return [item["id"] for item in client.get(f"/v1/galleries/{name}/items").json()["items"]]


def hits(client: TestClient, photo: bytes, k: int = 10, gallery: str = "colours") -> list[dict[str, Any]]:
    response = client.post(f"/v1/galleries/{gallery}/search?k={k}", content=photo, headers=JPEG)
    assert response.status_code == 200, response.text
    (found,) = response.json()["hits"]
    return list(found)


def test_add__three_ways_to_send_photos_keep_the_same_items(api: TestClient, photos: dict[str, bytes]) -> None:
    fields = [{"warm": colour == "red"} for colour in photos]
    form: list[tuple[str, Any]] = []
    for (colour, photo), one in zip(photos.items(), fields, strict=True):
        form += [("image", ("../../etc/passwd", photo)), ("id", (None, colour)), ("metadata", (None, json.dumps(one)))]
    by_form = api.post("/v1/galleries/form/items?create=true", files=form)
    by_json = api.post(
        "/v1/galleries/json/items?create=true",
        json={"images": [text(p) for p in photos.values()], "ids": [*photos], "metadata": fields},
    )
    assert by_form.status_code == by_json.status_code == 200
    assert by_form.json()["ids"] == by_json.json()["ids"] == ["red", "green", "blue"]
    assert (by_form.json()["items"], by_form.json()["dim"], by_form.json()["model"]) == (3, 8, TINY)
    for photo in photos.values():
        raw = api.post("/v1/galleries/raw/items?create=true", content=photo, headers=JPEG).json()
    assert raw["items"] == 3
    pages = [api.get(f"/v1/galleries/{name}/items").json()["items"] for name in ("form", "json")]
    assert pages[0] == pages[1]
    assert [item["metadata"] for item in pages[0]] == fields
    found = [[hit["score"] for hit in hits(api, photos["red"], gallery=name)] for name in ("form", "json", "raw")]
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)


def test_add__without_an_id_the_same_photo_is_one_item(api: TestClient, photos: dict[str, bytes]) -> None:
    files = [("image", photos["red"])] * 2 + [("image", photos["blue"])]
    first = api.post("/v1/galleries/g/items?create=true", files=files).json()
    again = api.post("/v1/galleries/g/items?create=true", content=photos["red"], headers=JPEG).json()
    assert (first["items"], again["items"], again["ids"]) == (2, 2, first["ids"][:1])


def test_add__the_same_id_is_replaced(colours: TestClient, photos: dict[str, bytes]) -> None:
    changed = colours.post(
        "/v1/galleries/colours/items?create=true",
        json={"images": [text(photos["blue"])], "ids": ["red"], "metadata": [{"now": "blue"}]},
    )
    assert changed.json()["items"] == 3
    top = hits(colours, photos["blue"], 2)
    assert {hit["id"] for hit in top} == {"red", "blue"}
    assert {"now": "blue"} in [hit["metadata"] for hit in top]


def test_show_and_list__name_the_model_of_the_embeddings(colours: TestClient, photos: dict[str, bytes]) -> None:
    colours.post("/v1/galleries/Teachers/items?create=true&space=teacher", content=photos["red"], headers=JPEG)
    listed = {one["name"]: one for one in colours.get("/v1/galleries").json()["galleries"]}
    assert sorted(listed) == ["Teachers", "colours"]
    assert listed["colours"] == colours.get("/v1/galleries/colours").json()
    shown = {key: value for key, value in listed["colours"].items() if key != "bytes"}
    assert shown == {"name": "colours", "model": TINY, "revision": "1", "space": "student", "dim": 8, "items": 3}
    assert (listed["Teachers"]["space"], listed["Teachers"]["dim"]) == ("teacher", 12)
    assert listed["colours"]["bytes"] > 3 * 8 * 4


def test_gallery__is_there_after_a_restart(colours: TestClient, site: Opener, photos: dict[str, bytes]) -> None:
    again = site()
    assert ids_of(again, "colours") == list(photos)
    assert hits(again, photos["green"], 1)[0]["id"] == "green"


def test_search__finds_the_nearest_of_each_of_many_photos(colours: TestClient, photos: dict[str, bytes]) -> None:
    body = colours.post(
        "/v1/galleries/colours/search?k=1", files=[("image", photo) for photo in photos.values()]
    ).json()
    assert [found[0]["id"] for found in body["hits"]] == list(photos)
    assert [found[0]["score"] for found in body["hits"]] == pytest.approx([1, 1, 1], abs=1e-4)
    assert (body["gallery"], body["space"], body["dim"]) == ("colours", "student", 8)


@pytest.mark.parametrize(("k", "count"), [(1, 1), (2, 2), (100, 3)])
def test_search__answers_k_items_nearest_first(
    colours: TestClient, photos: dict[str, bytes], k: int, count: int
) -> None:
    scores = [hit["score"] for hit in hits(colours, photos["red"], k)]
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
    response = colours.post("/v1/galleries/colours/search", params={"where": where}, files={"image": photos["red"]})
    assert {hit["id"] for hit in response.json()["hits"][0]} == found


def test_search__takes_the_gallerys_space(api: TestClient, photos: dict[str, bytes]) -> None:
    api.post("/v1/galleries/t/items?create=true&space=teacher", files=[("image", photo) for photo in photos.values()])
    body = api.post("/v1/galleries/t/search?k=1", content=photos["red"], headers=JPEG).json()
    assert (body["space"], body["dim"], round(body["hits"][0][0]["score"], 3)) == ("teacher", 12, 1)


def test_items__in_pages(colours: TestClient, photos: dict[str, bytes]) -> None:
    page = colours.get("/v1/galleries/colours/items?offset=1&limit=1").json()
    assert page == {
        "items": [{"id": "green", "metadata": {"warm": False, "number": 1, "name": "green"}}],
        "offset": 1,
        "total": 3,
        "next": "green",
    }
    assert colours.get("/v1/galleries/colours/items?offset=3").json()["items"] == []


def test_delete_items__takes_out_those_that_are_there(colours: TestClient, photos: dict[str, bytes]) -> None:
    answer = colours.delete("/v1/galleries/colours/items?id=red&id=nobody&id=red")
    assert answer.json() == {"deleted": 1}
    assert ids_of(colours, "colours") == ["green", "blue"]
    assert "red" not in {hit["id"] for hit in hits(colours, photos["red"])}


def test_delete__makes_room_for_another_kind(colours: TestClient, photos: dict[str, bytes]) -> None:
    assert colours.delete("/v1/galleries/colours").status_code == 204
    assert colours.get("/v1/galleries").json() == {"galleries": []}
    assert refusal(colours.get("/v1/galleries/colours")) == ("unknown_gallery", None)
    again = colours.post("/v1/galleries/colours/items?create=true&space=teacher", content=photos["red"], headers=JPEG)
    assert (again.json()["items"], again.json()["space"]) == (1, "teacher")


def test_export__is_read_by_numpy(colours: TestClient, photos: dict[str, bytes]) -> None:
    response = colours.get("/v1/galleries/colours/export")
    assert response.headers["content-disposition"] == 'attachment; filename="colours.npz"'
    with np.load(io.BytesIO(response.content), allow_pickle=False) as file:
        assert file["ids"].tolist() == list(photos)
        assert [str(file[name]) for name in ("model", "revision", "space")] == [TINY, "1", "student"]
        embeddings, metadata = file["embeddings"], file["metadata"].tobytes().decode()
    assert [json.loads(line)["name"] for line in metadata.splitlines()] == list(photos)
    expected = colours.post("/v1/embed", files=[("image", photo) for photo in photos.values()]).json()["embeddings"]
    assert embeddings == pytest.approx(np.array(expected), abs=1e-6)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-5)
