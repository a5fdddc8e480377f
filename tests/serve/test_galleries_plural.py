"""/v1/galleries: made on purpose, filled, searched."""

from __future__ import annotations

from pathlib import Path

import pytest
from refused_requests import refusal, text
from starlette.testclient import TestClient

JPEG = {"content-type": "image/jpeg"}


@pytest.fixture
def red(colour_photos: dict[str, Path]) -> bytes:
    return colour_photos["red"].read_bytes()


def test_put__makes_a_gallery_once(api: TestClient) -> None:
    made = api.put("/v1/galleries/trip")
    assert made.status_code == 200, made.text
    assert (made.json()["name"], made.json()["items"], made.json()["space"]) == ("trip", 0, "student")
    assert api.put("/v1/galleries/trip", json={"model": "leap-tiny-test"}).json() == made.json()
    assert refusal(api.put("/v1/galleries/trip", json={"space": "teacher"})) == ("other_embeddings", None)
    assert refusal(api.put("/v1/galleries/x", json={"model": "leap-none"})) == ("unknown_model", None)
    assert refusal(api.put("/v1/galleries/x", json={"modle": "leap-none"}))[0] == "invalid_option"
    assert [one["name"] for one in api.get("/v1/galleries").json()["galleries"]] == ["trip"]


def test_items__a_typo_is_not_a_new_gallery(api: TestClient, red: bytes) -> None:
    api.put("/v1/galleries/trip")
    assert refusal(api.post("/v1/galleries/tirp/items", content=red, headers=JPEG)) == ("unknown_gallery", None)
    added = api.post("/v1/galleries/trip/items", json={"images": [text(red)], "ids": ["a"]})
    assert (added.status_code, added.json()["items"]) == (200, 1)
    assert api.post("/v1/galleries/new/items?create=true", content=red, headers=JPEG).json()["items"] == 1


def test_items__are_read_page_by_page_while_others_are_deleted(api: TestClient, red: bytes) -> None:
    names = [f"{number:02d}" for number in range(11)]
    for few in (names[:4], names[4:8], names[8:]):
        body = {"images": [text(red)] * len(few), "ids": few}
        assert api.post("/v1/galleries/trip/items?create=true", json=body).status_code == 200
    seen: list[str] = []
    after: str | None = None
    for _ in range(10):
        options = {"limit": "3"} | ({} if after is None else {"after": after})
        page = api.get("/v1/galleries/trip/items", params=options).json()
        seen += [item["id"] for item in page["items"]]
        if (after := page["next"]) is None:
            break
        api.delete(f"/v1/galleries/trip/items?id={seen[0]}" if len(seen) == 3 else "/v1/galleries/trip/items?id=none")
    assert seen == names  # by offset, the first page's deleted item would have hidden another
    assert api.get("/v1/galleries/trip/items?limit=10").json()["next"] is None
    assert refusal(api.get("/v1/galleries/trip/items?after=00")) == ("invalid_option", None)


def test_search__is_a_part_of_its_gallery(api: TestClient, red: bytes) -> None:
    api.post("/v1/galleries/trip/items?create=true", json={"images": [text(red)], "ids": ["a"]})
    found = api.post("/v1/galleries/trip/search?k=3", content=red, headers=JPEG).json()
    assert [hit["id"] for hit in found["hits"][0]] == ["a"]
    assert found["gallery"] == "trip"
    assert refusal(api.post("/v1/galleries/tirp/search", content=red, headers=JPEG)) == ("unknown_gallery", None)


def test_old_paths__are_gone(api: TestClient, red: bytes) -> None:
    for path in ("/v1/gallery/trip", "/v1/search?gallery=trip"):
        assert refusal(api.post(path, content=red, headers=JPEG)) == ("unknown_path", None)


def test_page__ends_at_its_bytes(api: TestClient, red: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.api.galleries.MAX_PAGE_BYTES", 100)
    metadata = [{"note": "x" * 60}] * 3
    api.post(
        "/v1/galleries/trip/items?create=true",
        json={"images": [text(red)] * 3, "ids": ["a", "b", "c"], "metadata": metadata},
    )
    page = api.get("/v1/galleries/trip/items").json()
    assert ([item["id"] for item in page["items"]], page["total"]) == (["a"], 3)
    assert [item["id"] for item in api.get("/v1/galleries/trip/items?offset=1").json()["items"]] == ["b"]
    assert len(api.get("/v1/galleries").json()["galleries"]) == 1


def test_export__closes_its_file(api: TestClient, red: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed open until the garbage collector came by."""
    api.post("/v1/galleries/trip/items?create=true", content=red, headers=JPEG)
    galleries = api.app.state.stores.galleries  # type: ignore[attr-defined]
    file = galleries.temporary_file()
    monkeypatch.setattr(galleries, "temporary_file", lambda: file)
    assert api.get("/v1/galleries/trip/export").status_code == 200
    assert file.closed
