"""POST /v1/galleries/{name}/vectors: embeddings that were made elsewhere."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from refused_requests import refusal
from starlette.testclient import TestClient

from serve.api import galleries as routes

ROW = [1.0, *[0.0] * 7]


@pytest.fixture
def empty(api: TestClient) -> tuple[TestClient, dict[str, Any]]:
    """An API with a gallery `g`, which is empty, and whose embeddings it holds."""
    made = api.put("/v1/galleries/g").json()
    return api, {"model": made["model"], "revision": made["revision"]}


def test_vectors__of_an_export_make_the_same_gallery(colours: TestClient) -> None:
    with np.load(io.BytesIO(colours.get("/v1/galleries/colours/export").content)) as file:
        body = {
            "model": str(file["model"]),
            "revision": str(file["revision"]),
            "space": str(file["space"]),
            "ids": file["ids"].tolist(),
            "vectors": [base64.b64encode(row.tobytes()).decode() for row in file["embeddings"]],
            "metadata": [json.loads(line) for line in file["metadata"].tobytes().splitlines()],
        }
        rows = file["embeddings"]
    colours.put("/v1/galleries/copy")
    sent = colours.post("/v1/galleries/copy/vectors", json=body)
    assert (sent.status_code, sent.json()) == (200, {"gallery": "copy", "added": 3, "items": 3})
    assert colours.post("/v1/galleries/copy/vectors", json=body).json()["items"] == 3  # replaced
    with np.load(io.BytesIO(colours.get("/v1/galleries/copy/export").content)) as file:
        at = [file["ids"].tolist().index(name) for name in body["ids"]]
        np.testing.assert_allclose(file["embeddings"][at], rows, atol=1e-6)
    items = colours.get("/v1/galleries/copy/items").json()["items"]
    assert {one["id"]: one["metadata"] for one in items} == dict(zip(body["ids"], body["metadata"], strict=True))


def test_vectors__are_numbers_too(empty: tuple[TestClient, dict[str, Any]]) -> None:
    api, about = empty
    assert api.post("/v1/galleries/g/vectors", json=about | {"ids": ["a"], "vectors": [ROW]}).json()["items"] == 1


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"vectors": [ROW[:7]]}, ("invalid_vector", 0)),
        ({"vectors": [[0.0] * 8]}, ("invalid_vector", 0)),
        ({"vectors": [[1e200] * 8]}, ("invalid_vector", 0)),
        ({"vectors": ["AAA"]}, ("invalid_vector", 0)),
        ({"vectors": ["not base64"]}, ("invalid_vector", 0)),
        ({"vectors": [base64.b64encode(np.full(8, np.nan, "<f4").tobytes()).decode()]}, ("invalid_vector", 0)),
        ({"ids": ["a", "b"], "vectors": [ROW, ROW[:7]]}, ("invalid_vector", 1)),
        ({"vectors": []}, ("too_many_vectors", None)),
        ({"vectors": [ROW, ROW]}, ("uneven_items", None)),
        ({"metadata": []}, ("uneven_items", None)),
        ({"metadata": [{"a": [1]}]}, ("invalid_body", None)),
        ({"metadata": [{"not a name": 1}]}, ("invalid_metadata", None)),
        ({"ids": [""]}, ("invalid_id", None)),
        ({"ids": ["x" * 300]}, ("invalid_id", 0)),
        ({"revision": "another"}, ("other_embeddings", None)),
        ({"model": "another"}, ("other_embeddings", None)),
        ({"space": "teacher"}, ("other_embeddings", None)),
        ({"space": "outer"}, ("invalid_body", None)),
        ({"more": 1}, ("invalid_body", None)),
    ],
)
def test_vectors__invalid_are_refused_and_nothing_is_stored(
    empty: tuple[TestClient, dict[str, Any]], changed: dict[str, Any], expected: tuple[str, int | None]
) -> None:
    api, about = empty
    body = about | {"ids": ["a"], "vectors": [ROW]} | changed
    assert refusal(api.post("/v1/galleries/g/vectors", json=body)) == expected
    assert api.get("/v1/galleries/g").json()["items"] == 0


def test_vectors__need_a_gallery(empty: tuple[TestClient, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    api, about = empty
    body = about | {"ids": ["a"], "vectors": [ROW]}
    assert refusal(api.post("/v1/galleries/none/vectors", json=body)) == ("unknown_gallery", None)
    assert refusal(api.post("/v1/galleries/g/vectors", content=b"{")) == ("broken_json", None)
    monkeypatch.setattr(routes, "MAX_VECTORS", 1)
    many = about | {"ids": ["a", "b"], "vectors": [ROW, ROW]}
    assert refusal(api.post("/v1/galleries/g/vectors", json=many)) == ("too_many_vectors", None)
