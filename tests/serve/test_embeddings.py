"""/v1/embeddings: the requests that the openai client sends, and what it makes of the answers."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serve.engine import Engine

TINY = "leap-tiny-test"


@pytest.fixture(scope="module")
def uris(colour_photos: dict[str, Path]) -> list[str]:
    """The drawn photos as data URIs."""
    return ["data:image/any;base64," + base64.b64encode(path.read_bytes()).decode() for path in colour_photos.values()]


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/v1/embeddings", json={"model": TINY} | body, headers={"authorization": "Bearer any"})


def test_embeddings__as_the_openai_client_asks(
    client: TestClient, engine: Engine, colour_photos: dict[str, Path], uris: list[str]
) -> None:
    """openai-python asks for base64 unless told otherwise, and reads it with numpy.frombuffer(..., dtype="float32")."""
    body = ask(client, input=uris, encoding_format="base64").json()
    assert (body["object"], body["model"], body["usage"]) == ("list", TINY, {"prompt_tokens": 0, "total_tokens": 0})
    assert [(row["object"], row["index"]) for row in body["data"]] == [("embedding", i) for i in range(3)]
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="float32") for row in body["data"]]
    expected = engine.models.default.embed([path.read_bytes() for path in colour_photos.values()])
    assert np.allclose(rows, expected, atol=1e-6)


def test_embeddings__as_floats_of_one_photo(client: TestClient, uris: list[str]) -> None:
    (row,) = ask(client, input=uris[0], user="someone", dimensions=8).json()["data"]
    assert sum(x * x for x in row["embedding"]) == pytest.approx(1, abs=1e-5)


def test_embeddings__in_the_teachers_space(client: TestClient, uris: list[str]) -> None:
    (row,) = ask(client, input=uris[:1], space="teacher").json()["data"]
    assert len(row["embedding"]) == 12


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model": "text-embedding-3-small"}, "unknown_model"),
        ({"input": "a photo of a cat"}, "broken_base64"),
        ({"input": "https://example.org/cat.jpg"}, "address_not_fetched"),
        ({"input": []}, "missing_photo"),
        ({"input": [[1, 2, 3]]}, "invalid_body"),
        ({"input": ["data:image/png;base64,aGVsbG8="]}, "not_an_image"),
        ({"encoding_format": "int8"}, "invalid_body"),
        ({"dimensions": 4}, "invalid_option"),
    ],
)
def test_embeddings__refuses(client: TestClient, uris: list[str], change: dict[str, Any], code: str) -> None:
    response = ask(client, **{"input": uris[:1]} | change)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code


@pytest.mark.parametrize(
    "sent",
    [
        {"encoding_format": None, "user": "u", "dimensions": None},  # LiteLLM and LangChain send what is not set
        {"truncate": True, "normalized": True, "embedding_type": "float", "task": "retrieval"},  # Jina's
        {"modality": "image"},  # infinity's
    ],
)
def test_embeddings__ignores_fields_that_other_clients_add(
    client: TestClient, uris: list[str], sent: dict[str, Any]
) -> None:
    assert client.post("/v1/embeddings", json={"model": "leap-tiny-test", "input": uris} | sent).status_code == 200


def test_embeddings__takes_jinas_images_and_the_default_model(client: TestClient, uris: list[str]) -> None:
    answer = client.post("/v1/embeddings", json={"input": [{"image": uris[0]}, {"image": uris[0].partition(",")[2]}]})
    assert answer.status_code == 200
    assert answer.json()["data"][0]["embedding"] == answer.json()["data"][1]["embedding"]
    assert answer.json()["created"] > 1_700_000_000


def test_embeddings__errors_have_openais_shape_too(client: TestClient, uris: list[str]) -> None:
    body = client.post("/v1/embeddings", json={"model": "gpt", "input": uris}).json()
    assert (body["error"]["code"], body["error"]["type"]) == (body["code"], "invalid_request_error")
    assert body["error"]["message"] == body["detail"]
    assert "error" not in client.post("/v1/embed?model=gpt", content=b"x").json()


def test_models__one_has_a_path_of_its_own(client: TestClient) -> None:
    (listed,) = client.get("/v1/models").json()["data"]
    assert client.get("/v1/models/leap-tiny-test").json() == listed
    assert client.get("/v1/models/gpt").json()["code"] == "unknown_model"
