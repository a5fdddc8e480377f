"""What clients of OpenAI's API really send to /v1/embeddings: recorded bodies, and the openai package where it is."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from serve.app import make_app
from serve.engine import Engine
from serve.settings import ServeSettings
from serve.stores import Stores

TINY = "leap-tiny-test"

BODIES: dict[str, dict[str, Any]] = {  # as they were recorded; PHOTO stands for a data URI, BASE64 for its base64
    "openai 3.57": {"model": TINY, "input": ["PHOTO"], "encoding_format": "base64"},
    "openai 3.57, all options": {
        "model": TINY, "input": "PHOTO", "user": "u", "dimensions": 8, "encoding_format": "float", "space": "student",
    },
    "langchain-openai 1.7, check_embedding_ctx_length=False": {
        "model": TINY, "input": ["PHOTO"], "encoding_format": "base64",
    },
    "llama-index-embeddings-openai 0.7": {"model": TINY, "input": ["PHOTO"], "encoding_format": "base64"},
    "litellm 1.110, openai/ and hosted_vllm/": {"model": TINY, "input": ["PHOTO"]},
    "litellm 1.110, jina_ai/": {"model": TINY, "input": [{"image": "BASE64"}]},
    "litellm 1.110, infinity/": {"input": ["PHOTO"], "model": TINY},
}  # fmt: skip


@pytest.fixture(scope="module")
def photo(colour_photos: dict[str, Path]) -> str:
    """A photo in base64."""
    return base64.b64encode(colour_photos["red"].read_bytes()).decode()


def filled(sent: Any, photo: str) -> Any:
    """`sent` with the photo in its place."""
    if isinstance(sent, dict):
        return {name: filled(value, photo) for name, value in sent.items()}
    if isinstance(sent, list):
        return [filled(value, photo) for value in sent]
    return (
        {"PHOTO": f"data:image/png;base64,{photo}", "BASE64": photo}.get(sent, sent) if isinstance(sent, str) else sent
    )


@pytest.mark.parametrize("name", BODIES)
def test_recorded__bodies_are_answered(client: TestClient, photo: str, name: str) -> None:
    body = filled(BODIES[name], photo)
    answer = client.post("/v1/embeddings", json=body, headers={"authorization": "Bearer any"})
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["data"]
    vector = row["embedding"]
    if body.get("encoding_format") == "base64":
        vector = np.frombuffer(base64.b64decode(vector), "<f4")
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("tokens", [[[8687, 264, 6007]], [8687, 264, 6007]])
def test_tokens__are_refused_with_the_option_that_langchain_needs(client: TestClient, tokens: list[Any]) -> None:
    """langchain_openai turns texts into tokens unless it is told not to."""
    answer = client.post("/v1/embeddings", json={"model": TINY, "input": tokens, "encoding_format": "base64"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")
    assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


@pytest.fixture
def address(engine: Engine, stores: Stores) -> Iterator[str]:
    """The API on a port of the loopback."""
    server = uvicorn.Server(uvicorn.Config(make_app(engine, stores, ServeSettings()), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


def test_openai__its_package_embeds_photos(
    address: str, engine: Engine, colour_photos: dict[str, Path], photo: str
) -> None:
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        uri = f"data:image/png;base64,{photo}"
        answer = client.embeddings.create(model=TINY, input=[uri, uri])
        expected = engine.models.default.embed(colour_photos["red"].read_bytes())
        for row in answer.data:
            assert np.allclose(row.embedding, expected, atol=1e-6)
        assert (answer.model, answer.usage.total_tokens) == (TINY, 0)
        plain = client.embeddings.create(
            model=TINY, input=uri, encoding_format="float", extra_body={"space": "teacher"}
        )
        assert len(plain.data[0].embedding) == 12
        assert [model.id for model in client.models.list()] == [client.models.retrieve(TINY).id] == [TINY]
        with pytest.raises(openai.NotFoundError, match="Unknown model") as refused:
            client.embeddings.create(model="text-embedding-3-small", input=uri)
        assert (refused.value.code, refused.value.type) == ("unknown_model", "invalid_request_error")
        with pytest.raises(openai.UnprocessableEntityError, match="never fetched"):
            client.embeddings.create(model=TINY, input="https://example.org/cat.jpg")
