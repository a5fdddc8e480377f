"""/zoo: what is listed is handed on, whole or in part; nothing else is; and the real client can pull from it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from export.zoo import publish
from leap_zoo.documents import parse_index, read_card
from leap_zoo.errors import LeapZooError
from leap_zoo.pull import pull
from leap_zoo.store import BUNDLED, Zoo
from serve.api import zoo as routes
from serve.api.zoo import Shelf, zoos_to_hand_on
from serve.problems import Refused
from serve.settings import ServeSettings

TINY = "leap-tiny-test"
FILE = f"/zoo/{TINY}/model_int8.onnx"


def served(*folders: Path) -> TestClient:
    return offering(Shelf([Zoo(folder) for folder in folders]))


def offering(shelf: Shelf) -> TestClient:
    app = FastAPI()
    app.include_router(routes.router(shelf))

    @app.exception_handler(Refused)
    async def _(_: Request, refused: Refused) -> Response:
        return refused.response()

    return TestClient(app)


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> TestClient:
    return served(tiny_zoo)


@pytest.fixture(scope="module")
def data(tiny_zoo: Path) -> bytes:
    return (tiny_zoo / TINY / "model_int8.onnx").read_bytes()


def test_file__is_whole_with_its_digest(zoo: TestClient, data: bytes) -> None:
    answer = zoo.get(FILE)
    assert answer.content == data
    assert answer.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert answer.headers["content-length"] == str(len(data))
    assert (answer.headers["accept-ranges"], answer.headers["cache-control"]) == ("bytes", "no-cache")


def test_file__head_has_the_headers_alone(zoo: TestClient) -> None:
    head, get = zoo.head(FILE), zoo.get(FILE)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-type", "accept-ranges"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("asked", ["bytes=10-19", "bytes=100-", "bytes=-7", "bytes=0-0", "bytes=5-999999999999"])
def test_range__is_a_part(zoo: TestClient, data: bytes, asked: str) -> None:
    answer = zoo.get(FILE, headers={"range": asked})
    first, last = asked.removeprefix("bytes=").split("-")
    start = int(first) if first else len(data) - int(last)
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    assert (answer.status_code, answer.content) == (206, data[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=9-5", "bytes=1-2,4-5", "lines=1-2", "bytes", "bytes=-", "bytes=a-b", ""])
def test_range__invalid_is_ignored(zoo: TestClient, data: bytes, asked: str) -> None:
    answer = zoo.get(FILE, headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, data)


@pytest.mark.parametrize("asked", ["bytes=999999999-", "bytes=-0"])
def test_range__after_the_end_is_refused(zoo: TestClient, data: bytes, asked: str) -> None:
    answer = zoo.get(FILE, headers={"range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(data)}"


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(
        st.from_regex(r"bytes=[0-9]{0,6}-[0-9]{0,6}", fullmatch=True),
        st.text(st.characters(codec="ascii", categories=["L", "N", "P"])),
    )
)
def test_range__answers_are_parts_of_the_file(zoo: TestClient, data: bytes, asked: str) -> None:
    answer = zoo.get(FILE, headers={"range": asked})
    assert answer.status_code in (200, 206, 416)
    if answer.status_code == 206:
        start, end = answer.headers["content-range"].removeprefix("bytes ").partition("/")[0].split("-")
        assert answer.content == data[int(start) : int(end) + 1] != b""


def test_if_range__of_another_version_gives_the_whole(zoo: TestClient, data: bytes) -> None:
    etag = zoo.head(FILE).headers["etag"]
    assert zoo.get(FILE, headers={"range": "bytes=5-", "if-range": etag}).status_code == 206
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert zoo.get(FILE, headers={"range": "bytes=5-", "if-range": other}).content == data
    beyond = {"range": "bytes=999999999-", "if-range": '"other"'}
    assert zoo.get(FILE, headers=beyond).status_code == 200


@pytest.mark.parametrize("path", ["/zoo/index.json", FILE])
def test_if_none_match__saves_the_bytes(zoo: TestClient, path: str) -> None:
    etag = zoo.get(path).headers["etag"]
    answer = zoo.get(path, headers={"if-none-match": f'"x", W/{etag}'})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert zoo.get(path, headers={"if-none-match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/zoo/leap-tiny-test/secret.txt",
        "/zoo/leap-tiny-test/..%2findex.json",
        "/zoo/..%2f..%2fetc/passwd",
        "/zoo/leap-tiny-test/../index.json/x",
        "/zoo/other/card.json",
        "/zoo/leap-tiny-test/link.bin",
        "/zoo/leap-tiny-test/README.md",
        "/zoo/leap-tiny-test/card.json%00",
    ],
)
def test_file__that_no_card_lists_is_unknown(zoo_copy: Path, path: str) -> None:
    (zoo_copy / TINY / "secret.txt").write_text("secret")
    (zoo_copy / TINY / "README.md").unlink(missing_ok=True)
    (zoo_copy / TINY / "README.md").symlink_to("/etc/hostname")  # listed by name, but it leads out
    assert served(zoo_copy).get(path).status_code == 404


def test_file__that_was_changed_is_not_handed_on(zoo_copy: Path) -> None:
    client = served(zoo_copy)
    assert client.get(FILE).status_code == 200
    path = zoo_copy / TINY / "model_int8.onnx"
    path.write_bytes(path.read_bytes()[::-1])
    assert client.get(FILE).json()["code"] == "unknown_file"
    path.unlink()
    os.mkfifo(path)
    assert client.get(FILE).status_code == 404


def test_index__is_of_all_zoos_and_the_first_counts(zoo_copy: Path, tiny_zoo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_zoo, other)
    card = (other / TINY / "card.json").read_text().replace(TINY, "leap-other-test")
    (other / TINY).rename(other / "leap-other-test")
    (other / "index.json").unlink()
    (other / "leap-other-test" / "card.json").write_text(card)
    from export.zoo import reindex

    reindex(other)
    client = served(zoo_copy, other, tiny_zoo)
    index = parse_index(client.get("/zoo/index.json").content, "it")
    assert [entry.id for entry in index.models] == ["leap-other-test", TINY]
    assert client.get("/zoo/leap-other-test/model_int8.onnx").status_code == 200


def test_index__is_that_of_the_start(zoo_copy: Path) -> None:
    client = served(zoo_copy)
    before = client.get("/zoo/index.json").content
    card = msgspec.structs.replace(read_card(zoo_copy / TINY / "card.json"), description="A new one.")
    publish(zoo_copy, card)
    assert client.get("/zoo/index.json").content == before
    assert client.get(f"/zoo/{TINY}/card.json").status_code == 404  # it is not the one that the index names
    assert served(zoo_copy).get("/zoo/index.json").json()["models"][0]["description"] == "A new one."


def test_shelf__lists_its_first_model_before_the_others() -> None:
    ids = [entry.id for entry in parse_index(Shelf([Zoo(BUNDLED)], first="leap-tiny").index, "it").models]
    assert ids[0] == "leap-tiny"
    assert sorted(Shelf([Zoo(BUNDLED)]).cards) == sorted(ids)
    assert ids[1:] == sorted(ids[1:])


def test_shelf__of_no_zoo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LeapZooError, match="is not a zoo"):
        Shelf([Zoo(tmp_path)])


def test_shelf__serves_pulled_files(
    tiny_zoo: Path, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAP_ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LEAP_ZOO_URL", raising=False)
    pull(TINY, tiny_zoo, precision="int8")
    shelf = Shelf(zoos_to_hand_on(ServeSettings()))
    client = offering(shelf)
    assert TINY in [entry.id for entry in parse_index(client.get("/zoo/index.json").content, "it").models]
    assert client.get(FILE).content == data
    assert client.get(f"/zoo/{TINY}/card.json").content == (tiny_zoo / TINY / "card.json").read_bytes()
    card = read_card(tiny_zoo / TINY / "card.json")
    offered = [one.file for one in card.artifacts if shelf.offers(TINY, one.file, one.sha256)]
    assert offered == ["model_int8.onnx"]
    assert client.get(f"/zoo/{TINY}/model.onnx").json()["code"] == "unknown_file"
    pull(TINY, tiny_zoo, everything=True)
    again = offering(Shelf(zoos_to_hand_on(ServeSettings())))  # after a restart
    assert again.get(f"/zoo/{TINY}/model.onnx").status_code == 200
    other = Shelf(zoos_to_hand_on(ServeSettings(zoo=(tiny_zoo,))))
    assert other.offers(TINY, "model.onnx", card.artifacts[0].sha256)
    assert not other.offers(TINY, "model.onnx", "0" * 64)


def test_shelf__a_pulled_file_that_rotted_is_not_handed_on(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAP_ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LEAP_ZOO_URL", raising=False)
    pull(TINY, tiny_zoo, precision="int8")
    client = offering(Shelf(zoos_to_hand_on(ServeSettings())))
    digest = next(one.sha256 for one in read_card(tiny_zoo / TINY / "card.json").artifacts if one.precision == "int8")
    blob = tmp_path / "home" / "blobs" / digest
    blob.write_bytes(blob.read_bytes()[::-1])
    assert client.get(FILE).json()["code"] == "unknown_file"
