"""/v1/classify and /v1/embed: three ways to send photos, many at once, a choice of models, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused_requests import refusal, text
from starlette.testclient import TestClient

import leap_zoo
from leap_zoo import CustomHead
from serve.app import make_app
from serve.engine import Engine
from serve.settings import ServeSettings
from serve.stores import Stores, open_stores

JPEG = {"content-type": "image/jpeg"}
TINY = "leap-tiny-test"


@pytest.fixture(scope="module")
def photos(colour_photos: dict[str, Path]) -> dict[str, bytes]:
    """A drawn photo per colour."""
    return {colour: path.read_bytes() for colour, path in colour_photos.items()}


def test_classify__three_ways_to_send_photos_agree(client: TestClient, photos: dict[str, bytes]) -> None:
    as_form = client.post("/v1/classify", files=[("image", photo) for photo in photos.values()]).json()
    as_json = client.post("/v1/classify", json={"images": [text(photo) for photo in photos.values()]}).json()
    raw = [client.post("/v1/classify", content=photo, headers=JPEG).json() for photo in photos.values()]
    assert [best["label"] for best, *_ in as_form["predictions"]] == ["red", "green", "blue"]
    assert as_form["predictions"] == as_json["predictions"] == [one["predictions"][0] for one in raw]
    assert (as_form["head"], as_form["model"], as_form["revision"]) == ("colours", TINY, "1")
    assert as_form["milliseconds"] == pytest.approx(as_form["decode_ms"] + as_form["inference_ms"], abs=0.01)


def test_classify__takes_data_uris(client: TestClient, photos: dict[str, bytes]) -> None:
    body = client.post("/v1/classify?top=1", json={"images": ["data:image/webp;base64," + text(photos["blue"])]}).json()
    assert [[one["label"] for one in row] for row in body["predictions"]] == [["blue"]]


def test_embed__encodings_are_the_same_vectors(client: TestClient, photos: dict[str, bytes]) -> None:
    files = [("image", photo) for photo in photos.values()]

    def asked(encoding: str) -> dict[str, Any]:
        body = client.post(f"/v1/embed?space=teacher&encoding={encoding}", files=files).json()
        assert (body["encoding"], body["dim"], body["space"]) == (encoding, 12, "teacher")
        return dict(body)

    floats = np.array(asked("float")["embeddings"], np.float32)
    assert floats.shape == (3, 12)
    assert np.linalg.norm(floats, axis=1) == pytest.approx(1, abs=1e-5)
    as_bytes = [np.frombuffer(base64.b64decode(row), "<f4") for row in asked("base64")["embeddings"]]
    assert np.array_equal(np.stack(as_bytes), floats)


def test_embed__answers_as_the_model_does(client: TestClient, tiny_zoo: Path, photos: dict[str, bytes]) -> None:
    body = client.post(f"/v1/embed?model={TINY}", content=photos["red"], headers=JPEG).json()
    expected = leap_zoo.load(TINY, zoo=tiny_zoo, threads=1).embed(photos["red"])
    assert body["precision"] == "int8"
    assert np.array(body["embeddings"][0], np.float32) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/embed?model=leap-tiny-tset", "unknown_model"),
        ("/v1/embed?model=../leap-tiny-test", "unknown_model"),
        ("/v1/embed?precision=fp32", "invalid_option"),
        ("/v1/embed?encoding=hex", "invalid_option"),
        ("/v1/embed?spcae=teacher", "invalid_option"),
        ("/v1/classify?top=0", "invalid_option"),
        ("/v1/classify?head=x.head", "unknown_head"),
    ],
)
def test_options__are_explained(client: TestClient, photos: dict[str, bytes], path: str, code: str) -> None:
    assert refusal(client.post(path, content=photos["red"], headers=JPEG)) == (code, None)


def test_options__name_the_nearest(client: TestClient, photos: dict[str, bytes]) -> None:
    response = client.post("/v1/embed?spcae=teacher", content=photos["red"], headers=JPEG)
    assert "did you mean 'space'" in response.json()["detail"]
    response = client.post("/v1/classify?head=colour", content=photos["red"], headers=JPEG)
    assert "did you mean 'colours'" in response.json()["detail"]


def test_photos__the_first_bad_one_is_named(client: TestClient, photos: dict[str, bytes]) -> None:
    red = photos["red"]
    for bad, code in ((b"no photo", "not_an_image"), (red[:300], "undecodable_image"), (b"", "missing_photo")):
        files = [("image", red), ("image", red), ("image", bad), ("image", bad)]
        assert refusal(client.post("/v1/classify", files=files)) == (code, 2)
        texts = [text(photo) for _, photo in files]
        assert refusal(client.post("/v1/embed", json={"images": texts})) == (code, 2)


def test_photos__at_most_as_many_as_the_server_takes(client: TestClient, photos: dict[str, bytes]) -> None:
    assert len(client.post("/v1/embed", files=[("image", photos["red"])] * 4).json()["embeddings"]) == 4
    for number in (5, 50):
        assert refusal(client.post("/v1/embed", files=[("image", photos["red"])] * number))[0] == "too_many_photos"
        assert refusal(client.post("/v1/embed", json={"images": ["AA=="] * number}))[0] == "too_many_photos"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", ("broken_json", None)),
        (b"{", ("broken_json", None)),
        (b'{"images": ["\xff"]}', ("broken_json", None)),
        (b"[" * 100_000, ("invalid_body", None)),
        (b'{"images": [' + b"[" * 100_000, ("invalid_body", None)),
        (b"[]", ("invalid_body", None)),
        (b'{"images": "AA=="}', ("invalid_body", None)),
        (b'{"images": [1]}', ("invalid_body", None)),
        (b'{"images": ["AA=="], "top": 3}', ("invalid_body", None)),
        (b'{"images": []}', ("missing_photo", None)),
        (b'{"images": ["not base64!"]}', ("broken_base64", 0)),
        ('{"images": ["AA==", "Ä"]}'.encode(), ("broken_base64", 1)),
        (b'{"images": ["data:image/jpeg,xyz"]}', ("broken_data_uri", 0)),
        (b'{"images": ["data:"]}', ("broken_data_uri", 0)),
        (b'{"images": ["AA==", "http://169.254.169.254/latest"]}', ("address_not_fetched", 1)),
        (b'{"images": ["file:///etc/passwd"]}', ("address_not_fetched", 0)),
    ],
)
def test_json__broken_or_of_another_shape(client: TestClient, body: bytes, expected: tuple[str, int | None]) -> None:
    response = client.post("/v1/embed", content=body, headers={"content-type": "application/json"})
    assert refusal(response) == expected


def test_json__a_large_one_is_read(client: TestClient, photos: dict[str, bytes]) -> None:
    padded = photos["red"] + bytes(400_000)  # bytes after a JPEG's end are no part of it
    body = client.post("/v1/classify", json={"images": [text(padded)]}).json()
    assert body["predictions"][0][0]["label"] == "red"


def test_content_type__unknown(client: TestClient) -> None:
    assert refusal(client.post("/v1/embed", content=b"x", headers={"content-type": "text/plain"})) == (
        "unsupported_content_type",
        None,
    )


def with_head(head: CustomHead) -> Stores:
    """Stores with one head, called `warmth`."""
    stores = open_stores()
    stores.heads.create("warmth", head)
    return stores


@pytest.fixture(scope="module")
def warmth(engine: Engine, photos: dict[str, bytes]) -> CustomHead:
    """A head that tells red photos from blue ones."""
    labelled = {"cold": [photos["blue"]] * 3, "warm": [photos["red"]] * 3}
    return leap_zoo.fit(engine.models.default, labelled).head


def test_classify__uses_a_head_of_a_client(engine: Engine, photos: dict[str, bytes], warmth: CustomHead) -> None:
    client = TestClient(make_app(engine, with_head(warmth), ServeSettings()))
    files = [("image", photos["red"]), ("image", photos["blue"])]
    body = client.post("/v1/classify?head=warmth&top=1", files=files).json()
    assert [row[0]["label"] for row in body["predictions"]] == ["warm", "cold"]
    assert body["head"] == "warmth"
    assert (body["unsure"], body["distances"]) == ([False, False], [None, None])  # one photo per class: it cannot tell


def test_classify__is_unsure_beyond_the_threshold(engine: Engine, photos: dict[str, bytes], warmth: CustomHead) -> None:
    import msgspec

    for threshold, unsure in ((-1e3, True), (1e3, False)):
        head = CustomHead(msgspec.structs.replace(warmth.card, threshold=threshold), warmth.weight, warmth.bias)
        client = TestClient(make_app(engine, with_head(head), ServeSettings()))
        body = client.post("/v1/classify?head=warmth", content=photos["red"], headers=JPEG).json()
        assert body["unsure"] == [unsure]
        assert client.get("/v1/heads/warmth").json()["threshold"] == threshold
        body = client.post("/v1/classify", content=photos["red"], headers=JPEG).json()
        assert (body["unsure"], body["distances"]) == ([False], [None])  # the model's own heads do not know


def test_classify__refuses_a_head_of_another_model(
    engine: Engine, photos: dict[str, bytes], warmth: CustomHead
) -> None:
    import msgspec

    other = CustomHead(msgspec.structs.replace(warmth.card, revision="2"), warmth.weight, warmth.bias)
    client = TestClient(make_app(engine, with_head(other), ServeSettings()))
    response = client.post("/v1/classify?head=warmth", content=photos["red"], headers=JPEG)
    assert refusal(response) == ("head_of_another_model", None)
