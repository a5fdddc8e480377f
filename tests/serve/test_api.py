"""The routes, their options, and the one shape of every refusal."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from leap_zoo import ArtifactRefused
from serve import service
from serve.api.schemas import Answered
from serve.app import build_site
from serve.engine import Engine
from serve.problems import CODES, refusal_of
from serve.settings import ServeSettings
from serve.stores import open_stores


def assert_refused(response: object, status: int, code: str) -> str:
    """The answer is a Problem with this status and code. Returns its detail."""
    assert response.status_code == status, response.text  # type: ignore[attr-defined]
    assert response.headers["content-type"] == "application/problem+json"  # type: ignore[attr-defined]
    body = response.json()  # type: ignore[attr-defined]
    assert (body["status"], body["code"]) == (status, code)
    assert len(body["detail"]) > 20
    assert "/" not in body["detail"].replace("image/jpeg", "").replace("GET /", "")  # no path of this machine
    return str(body["detail"])


@pytest.fixture(scope="module")
def client(served: TestClient) -> TestClient:
    """A client of all of the server."""
    return served


@pytest.fixture(scope="module")
def red(colour_photos: dict[str, Path]) -> bytes:
    """A JPEG whose strongest colour is red."""
    return colour_photos["red"].read_bytes()


def test_classify__answers_a_form(client: TestClient, red: bytes) -> None:
    body = client.post("/classify", files={"image": ("any.jpg", red, "image/jpeg")}).json()
    assert set(body) == {"predictions", "unsure", "head", *Answered.model_fields}
    assert body["predictions"][0]["label"] == "red"
    assert body["predictions"][0]["index"] == 0
    scores = [prediction["score"] for prediction in body["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert (body["model"], body["head"], body["precision"]) == ("leap-tiny-test", "colours", "int8")
    assert body["milliseconds"] > 0


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "application/octet-stream", None])
def test_classify__answers_a_raw_body(client: TestClient, red: bytes, kind: str | None) -> None:
    response = client.post("/classify", content=red, headers={"content-type": kind} if kind else {})
    assert response.json()["predictions"][0]["label"] == "red"


def test_classify__takes_any_single_file_field(client: TestClient, red: bytes) -> None:
    assert client.post("/classify", files={"file": red}).json()["predictions"][0]["label"] == "red"


def test_classify__keeps_to_its_options(client: TestClient, red: bytes) -> None:
    body = client.post("/classify?top=1&head=brightness", files={"image": red}).json()
    assert len(body["predictions"]) == 1
    assert body["head"] == "brightness"


def test_embed__answers_in_both_spaces(client: TestClient, engine: Engine, red: bytes) -> None:
    for space, dim in (("student", 8), ("teacher", 12)):
        body = client.post(f"/embed?space={space}", content=red, headers={"content-type": "image/jpeg"}).json()
        assert (body["space"], body["dim"], len(body["embedding"])) == (space, dim, dim)
        assert sum(x * x for x in body["embedding"]) == pytest.approx(1, abs=1e-5)
        assert (body["model"], body["precision"]) == ("leap-tiny-test", "int8")
        assert body["embedding"] == pytest.approx(engine.models.default.embed(red, space=space).tolist())


def test_search__finds_what_is_in_a_gallery(client: TestClient, colour_photos: dict[str, Path], red: bytes) -> None:
    for colour, path in colour_photos.items():
        data = {"id": colour, "metadata": json.dumps({"warm": colour == "red"})}
        added = client.post("/v1/galleries/native/items?create=true", files={"image": path.read_bytes()}, data=data)
        assert added.status_code == 200
    fields = {"gallery": "native", "k": "2", "where": '{"warm": false}'}
    body = client.post("/search", files={"image": red}, data=fields).json()
    assert (body["gallery"], body["space"], len(body["hits"])) == ("native", "student", 2)
    assert {hit["id"] for hit in body["hits"]} == {"green", "blue"}
    (best,) = client.post("/search?gallery=native&k=1", content=red).json()["hits"]
    assert (best["id"], best["metadata"]) == ("red", {"warm": True})
    assert client.post("/search?gallery=nothing", content=red).json()["code"] == "unknown_gallery"
    assert "gallery" in assert_refused(client.post("/search", content=red), 422, "invalid_option")
    client.delete("/v1/galleries/native")


def test_methods__are_called_as_any_method_of_bentoml(client: TestClient, colour_photos: dict[str, Path]) -> None:
    """`bentoml.SyncHTTPClient` learns from /schema.json what there is, and sends options as JSON beside the photo."""
    schema = client.get("/schema.json").json()
    assert {route["name"]: set(route["input"]["properties"]) for route in schema["routes"]} == {
        "classify": {"image", "top", "head"},
        "embed": {"image", "space"},
        "search": {"image", "gallery", "k", "where"},
    }
    for route in schema["routes"]:
        assert route["input"]["properties"]["image"]["type"] == "file"
        assert "model" in route["output"]["properties"]
    form = {"top": "2", "head": '"brightness"'}
    photo = {"image": colour_photos["red"].read_bytes()}
    body = client.post("/classify", files=photo, data=form).json()
    assert (len(body["predictions"]), body["head"]) == (2, "brightness")
    assert client.post("/classify", files=photo, data={"head": "null"}).json()["head"] == "colours"


def test_methods__run_without_a_server(
    engine: Engine, colour_photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = open_stores()
    monkeypatch.setattr(service, "running", lambda: (ServeSettings(), engine, stores))
    answer = asyncio.run(service.LeapZoo().classify(image=colour_photos["green"], top=1))
    assert [one.label for one in answer.predictions] == ["green"]
    stores.close()


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("top=0", "greater than or equal to 1"),
        ("top=many", "valid integer"),
        ("top=5000", "less than or equal to 1000"),
        ("tpo=3", "did you mean 'top'"),
        ("space=teacher", "Unknown option 'space'"),
    ],
)
def test_classify__explains_a_bad_option(client: TestClient, red: bytes, query: str, hint: str) -> None:
    response = client.post(f"/classify?{query}", files={"image": red})
    assert hint in assert_refused(response, 422, "invalid_option")


def test_classify__names_the_nearest_head(client: TestClient, red: bytes) -> None:
    response = client.post("/classify?head=colour", files={"image": red})
    assert "did you mean 'colours'" in assert_refused(response, 404, "unknown_head")


def test_classify__never_reads_a_file_that_a_client_names(
    client: TestClient, red: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.head").write_bytes(b"no head")
    for name in ("a.head", "absent.head"):
        response = client.post("/classify", params={"head": name}, files={"image": red})
        assert "has no head" in assert_refused(response, 404, "unknown_head")


def test_embed__refuses_an_unknown_space(client: TestClient, red: bytes) -> None:
    response = client.post("/embed?space=outer", files={"image": red})
    assert "'student' or 'teacher'" in assert_refused(response, 422, "invalid_option")


@pytest.mark.parametrize("path", ["/classify", "/embed"])
def test_photo__invalid_is_refused(client: TestClient, path: str) -> None:
    assert_refused(client.post(path, files={"image": b"hello, I am a text"}), 415, "not_an_image")
    assert_refused(client.post(path, files={"image": b"%PDF-1.7 \n"}), 415, "not_an_image")


def test_photo__refused_when_truncated(client: TestClient, red: bytes) -> None:
    detail = assert_refused(client.post("/classify", files={"image": red[: len(red) // 2]}), 400, "undecodable_image")
    assert "0x" not in detail  # no address of an object in memory


def test_photo__refused_by_the_pixels_its_header_claims(client: TestClient) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    assert_refused(client.post("/classify", files={"image": png}), 413, "image_too_large")


def test_photo__missing(client: TestClient) -> None:
    assert "`image`" in assert_refused(client.post("/classify"), 400, "missing_photo")
    assert_refused(client.post("/classify", files={"image": b""}), 400, "missing_photo")
    assert_refused(client.post("/classify", content=b"", headers={"content-type": "image/png"}), 400, "missing_photo")


def test_photo__two_are_one_too_many(client: TestClient, red: bytes) -> None:
    for files in ([("image", red), ("image", red)], [("image", red), ("other", red)]):
        assert_refused(client.post("/classify", files=files), 400, "several_photos")


def test_photo__as_text_field(client: TestClient) -> None:
    response = client.post("/classify", files={"image": (None, b"photo.jpg")})
    assert "not a file" in assert_refused(response, 422, "image_is_text")


def test_form__options_of_the_api_belong_into_the_query(client: TestClient, red: bytes) -> None:
    response = client.post("/v1/classify", files={"image": red}, data={"top": "1"})
    assert "?top=3" in assert_refused(response, 422, "unexpected_field")


def test_form__broken(client: TestClient, red: bytes) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        assert_refused(client.post("/classify", content=red, headers={"content-type": kind}), 400, "broken_form")


def test_body__of_another_kind(client: TestClient) -> None:
    assert_refused(client.post("/classify", json={"image": "http"}), 415, "unsupported_content_type")


def test_method__wrong(client: TestClient) -> None:
    response = client.get("/classify")
    assert_refused(response, 405, "wrong_method")
    assert response.headers["allow"] == "POST"


def test_photo__of_another_mode_and_size_is_read(client: TestClient) -> None:
    for mode, size in (("CMYK", (40, 30)), ("L", (1, 1)), ("1", (64, 8))):
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, "TIFF")
        assert client.post("/classify", files={"image": buffer.getvalue()}).status_code == 200


def test_server_error__answers_without_its_reason(engine: Engine, red: bytes) -> None:
    site = build_site(engine, open_stores(), ServeSettings())

    @site.get("/fails")
    async def fails() -> None:
        raise RuntimeError("secret of the house")

    response = TestClient(site, raise_server_exceptions=False).get("/fails")
    assert_refused(response, 500, "internal_error")
    assert "secret" not in response.text


def test_refusal_of__keeps_the_servers_own_troubles_to_itself() -> None:
    refused = refusal_of(ArtifactRefused("cannot run /secret/model.onnx"))
    assert (refused.status, refused.code) == (500, "internal_error")
    assert "secret" not in refused.detail


def test_openapi__describes_every_route_and_error(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    paths = schema["paths"]
    assert {"/v1/classify", "/v1/embed", "/v1/embeddings", "/v1/models"} <= set(paths)
    classify = paths["/v1/classify"]["post"]
    assert "multipart/form-data" in classify["requestBody"]["content"]
    for method, operation in ((method, one) for path in paths.values() for method, one in path.items()):
        assert {"4XX", "5XX"} <= set(operation["responses"]), method
        assert set(operation["responses"]["4XX"]["content"]) == {"application/problem+json"}
    assert all(f"| `{code}` | {status} |" in schema["info"]["description"] for code, (status, _) in CODES.items())
    assert {parameter["name"] for parameter in classify["parameters"]} == {"top", "head", "model"}


def test_start_page__needs_no_other_host(client: TestClient) -> None:
    page = client.get("/").text
    assert "leap-tiny-test" in page
    assert page.replace("http://testserver", "").count("http") == page.count("http://www.w3.org")
    assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
    assert client.get("/manifest.json").json()["start_url"] == "ui/"
