"""`leap_zoo.client` against a stand-in: busy, slow, gone, lying and hostile services. The real one: tests/e2e."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_stand_in import Answer, StandIn, refused, running, said

import leap_zoo
from leap_zoo import InvalidArgument, ServiceFailed, ServiceRefused
from leap_zoo import client as client_module
from leap_zoo.client import Client
from leap_zoo.web import Patience

PHOTO = b"any bytes: whether they are a photo is for the service to say"


@pytest.fixture(scope="module")
def stand_in_server() -> Iterator[StandIn]:
    with running() as stand_in:
        yield stand_in


@pytest.fixture
def service(stand_in_server: StandIn) -> StandIn:
    stand_in_server.says(Answer())
    return stand_in_server


@pytest.fixture
def client(service: StandIn) -> Iterator[Client]:
    with Client(service.url, timeout=5) as client:
        yield client


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", slept.append)
    return slept


def classified(photos: int = 1, **fields: Any) -> Answer:
    row = [{"label": "cat", "score": 0.5, "index": 3}]
    return said({"predictions": [row] * photos, "model": "m", "revision": "1"} | fields)


def embedded(photos: int = 1, vector: tuple[float, ...] = (0.6, 0.8), **fields: Any) -> Answer:
    row = base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
    return said({"embeddings": [row] * photos, "dim": len(vector), "model": "m", "revision": "1"} | fields)


def test_classify__doubt_of_a_head_arrives(service: StandIn, client: Client) -> None:
    service.says(classified(2, unsure=[True, False], distances=[0.9, 0.4]), classified(2))
    first, second = client.classify([PHOTO, PHOTO])
    assert (first.unsure, first.distance, second.unsure, second.distance) == (True, 0.9, False, 0.4)
    assert [(one.unsure, one.distance) for one in client.classify([PHOTO, PHOTO])] == [(False, None)] * 2  # older
    service.says(classified(2, unsure=[True], distances=[0.9]))
    with pytest.raises(ServiceFailed):
        client.classify([PHOTO, PHOTO])


def test_busy__is_retried_after_the_stated_delay(service: StandIn, client: Client, waits: list[float]) -> None:
    service.says(refused(503, "busy", retry_after="2"), refused(429, "busy", retry_after="3"), classified())
    assert client.classify(PHOTO)[0].label == "cat"
    assert len(service.asked) == 3
    assert 2 <= waits[0] <= 3
    assert 3 <= waits[1] <= 4.5
    assert service.asked[0].body == service.asked[2].body == PHOTO


def test_busy__for_ever_is_given_up(service: StandIn, waits: list[float]) -> None:
    service.says(refused(503, "busy", "Too many.", retry_after="1"))
    with Client(service.url, attempts=3) as client, pytest.raises(ServiceFailed, match=r"\(3 times\): Too many"):
        client.classify(PHOTO)
    assert len(service.asked) == 3
    assert len(waits) == 2


@pytest.mark.parametrize("asks", ["100000", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_busy__never_waits_longer_than_it_should(
    service: StandIn, client: Client, waits: list[float], asks: str
) -> None:
    service.says(refused(503, "busy", retry_after=asks), classified())
    client.classify(PHOTO)
    assert waits == [client_module.LONGEST_WAIT]


@pytest.mark.parametrize("headers", [{}, {"retry_after": "soon"}, {"retry_after": "9" * 100}])
def test_busy__without_a_time_is_not_asked_again(service: StandIn, client: Client, headers: dict[str, str]) -> None:
    service.says(refused(503, "store_unavailable", **headers))
    with pytest.raises(ServiceFailed):
        client.models()
    assert len(service.asked) == 1


def test_fit__that_took_too_long_is_not_asked_again(service: StandIn, client: Client) -> None:
    service.says(refused(503, "timed_out", retry_after="1"), classified())
    with pytest.raises(ServiceFailed):
        client.fit("pets", {"cat": [PHOTO], "dog": [PHOTO]})
    assert len(service.asked) == 1
    service.says(refused(503, "timed_out", retry_after="1"), classified())
    assert client.classify(PHOTO)


def test_silence__ends_with_the_timeout(service: StandIn) -> None:
    given_up = threading.Event()
    service.says(Answer(act=lambda _: given_up.wait(60)))
    with Client(service.url, timeout=0.2) as client, pytest.raises(ServiceFailed, match="did not answer in time"):
        client.models()
    given_up.set()
    assert len(service.asked) == 1


def test_nobody__there() -> None:
    with Client("http://a..b") as client, pytest.raises(InvalidArgument, match="is not valid in HTTP"):
        client.models()
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceFailed, match="cannot be reached"):
        client.models()


def test_connection__that_breaks_within_an_answer(service: StandIn, client: Client) -> None:
    def half(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "100")
        handler.end_headers()
        handler.wfile.write(b"{")

    service.says(Answer(act=half))
    with pytest.raises(ServiceFailed, match="cannot be reached"):
        client.models()


def test_answer__longer_than_any_is_not_read(service: StandIn, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while True:
            sent += handler.wfile.write(b" " * 65536)

    service.says(Answer(act=endless))
    with pytest.raises(ServiceFailed, match="larger than"):
        client.models()
    assert sent < client_module.MAX_ANSWER * 1.5


def test_answer__that_trickles_is_given_up(service: StandIn, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = threading.Event()
    monkeypatch.setattr(client_module, "Patience", lambda: Patience(window=0.3, least=1000))

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not pause.wait(0.05):
            handler.wfile.write(b" ")

    service.says(Answer(act=trickle))
    with pytest.raises(ServiceFailed, match="too slowly"):
        client.models()


def test_answer__that_is_compressed_is_not_unpacked(service: StandIn, client: Client) -> None:
    service.says(Answer(gzip.compress(b'{"data": []}'), headers={"content-encoding": "gzip"}))
    with pytest.raises(ServiceFailed, match=r"compressed \('gzip'\)"):
        client.models()
    assert service.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"data": 3}', b'{"data": [3]}', b'{"data": ["\xff"]}', b"[" * 100_000]
)
def test_answer__of_unexpected_type(service: StandIn, client: Client, body: bytes) -> None:
    service.says(Answer(body))
    for ask in (client.models, client.galleries, client.heads, lambda: client.classify(PHOTO)):
        with pytest.raises(ServiceFailed, match="an unexpected answer"):
            ask()


@pytest.mark.parametrize(
    "answer",
    [
        embedded(2),
        embedded(0),
        embedded(dim=3),
        embedded(dim=-2),
        embedded(vector=()),
        embedded(vector=(float("nan"), 1)),
        embedded(embeddings=["no base64"]),
        classified(),
    ],
)
def test_embedding__invalid(service: StandIn, client: Client, answer: Answer) -> None:
    service.says(answer)
    with pytest.raises(ServiceFailed, match="an unexpected answer"):
        client.embed(PHOTO)


def test_many__take_several_requests(service: StandIn, client: Client) -> None:
    service.says(classified(32), classified(32), classified(6))
    assert len(client.classify([PHOTO] * 70)) == 70
    assert [asked.body.count(PHOTO) for asked in service.asked] == [32, 32, 6]


def test_many__may_be_an_iterable_and_a_photo_an_open_file(service: StandIn, client: Client) -> None:
    service.says(classified(32), classified(1), classified(1))
    assert len(client.classify(PHOTO for _ in range(33))) == 33
    assert isinstance(client.classify(io.BytesIO(PHOTO)), leap_zoo.model.Predictions)
    assert [asked.body.count(PHOTO) for asked in service.asked] == [32, 1, 1]
    service.says(classified(32), refused(415, "not_an_image", "No photo."))
    with pytest.raises(leap_zoo.NotAnImage, match=r"image 32 \(from 0\)"):
        client.classify(PHOTO for _ in range(33))


def test_many__are_sent_in_halves_where_the_service_takes_fewer(service: StandIn, client: Client) -> None:
    refusal = refused(413, "too_many_photos")
    service.says(
        refusal, refusal, classified(2), classified(2), refused(413, "body_too_large"), classified(2), classified(2)
    )
    assert len(client.classify([b"%d" % number for number in range(8)])) == 8
    sent = [[number for number in range(8) if b"\r\n%d\r\n" % number in asked.body] for asked in service.asked]
    assert sent == [[*range(8)], [0, 1, 2, 3], [0, 1], [2, 3], [4, 5, 6, 7], [4, 5], [6, 7]]

    service.says(refusal, said({}), refused(415, "not_an_image", "No photo.", index=1))
    with pytest.raises(leap_zoo.NotAnImage, match="image 3 of 4"):
        client.add("holiday", ["a", "b", "c", "d"], [PHOTO] * 4)
    assert [json.loads(asked.body)["ids"] for asked in service.asked] == [list("abcd"), list("ab"), list("cd")]

    service.says(refusal)
    with pytest.raises(ServiceRefused):
        client.classify([PHOTO, PHOTO])
    assert len(service.asked) == 2


@pytest.mark.parametrize("index", [-1, 2, 10**9, None])
def test_many__an_invalid_index_is_not_shown(service: StandIn, client: Client, index: int | None) -> None:
    service.says(refused(415, "not_an_image", "No photo.", index=index))
    with pytest.raises(leap_zoo.NotAnImage, match=r"^No photo\.$"):
        client.classify([PHOTO, PHOTO])


def test_many__by_two_models_are_not_mixed(service: StandIn, client: Client) -> None:
    for other in (embedded(1, revision="2"), embedded(1, model="n"), embedded(1, vector=(0.6, 0, 0.8))):
        service.says(embedded(32), other)
        with pytest.raises(ServiceFailed, match="the model or revision changed"):
            client.embed([PHOTO] * 33)


def test_many__a_bad_photo_has_its_own_number(service: StandIn, client: Client) -> None:
    service.says(classified(32), refused(415, "not_an_image", "No photo.", index=5))
    with pytest.raises(leap_zoo.NotAnImage, match="image 37 of 40"):
        client.classify([PHOTO] * 40)
    service.says(classified(32), refused(415, "not_an_image", "No photo."))
    with pytest.raises(leap_zoo.NotAnImage, match="image 32 of 33"):  # the only one of its request
        client.classify([PHOTO] * 33)
    service.says(said({}), refused(400, "undecodable_image", "Broken.", index=0))
    with pytest.raises(leap_zoo.UndecodableImage, match="image 32 of 34"):
        client.add("holiday", [str(n) for n in range(34)], [PHOTO] * 34)


def test_empty_lists__need_no_service(service: StandIn, client: Client) -> None:
    assert client.embed([]).shape == (0, 0)
    assert client.classify([]) == client.search([], "holiday") == []
    assert service.asked == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(401, "wrong_key"), ServiceRefused),
        (refused(404, "unknown_gallery"), ServiceRefused),
        (refused(413, "image_too_large"), leap_zoo.ImageTooLarge),
        (refused(422, "unknown_head"), leap_zoo.UnknownHead),
        (refused(422, "invalid_option"), InvalidArgument),
        (refused(500, "internal_error"), ServiceFailed),
        (Answer(b"<html>Bad gateway", 502), ServiceFailed),
        (Answer(b'{"code": 3}', 418), ServiceRefused),
        (Answer(b"x" * 10**6, 404), ServiceRefused),
    ],
)
def test_refusals__are_our_errors(service: StandIn, client: Client, answer: Answer, error: type[Exception]) -> None:
    service.says(answer)
    with pytest.raises(error) as raised:
        client.search(PHOTO, "holiday")
    assert len(service.asked) == 1
    if error is ServiceRefused:
        assert raised.value.status == answer.status


def test_refusals__words_are_one_printable_line(service: StandIn, client: Client) -> None:
    service.says(refused(404, "unknown_gallery", "\x1b[31mAll\nfiles  deleted.\x07" + "!" * 9000))
    with pytest.raises(ServiceRefused) as raised:
        client.delete("holiday")
    assert str(raised.value).startswith("\\x1b[31mAll files deleted.\\x07!!!")
    assert len(str(raised.value)) <= client_module.MAX_DETAIL


def test_redirect__is_reported_and_not_followed(service: StandIn) -> None:
    service.says(Answer(b"", 308, {"location": "https://elsewhere.example/v1/models"}))
    with Client(service.url, key="a-secret-key") as client, pytest.raises(ServiceRefused, match="https://elsewhere"):
        client.models()
    assert len(service.asked) == 1


def test_key__is_sent_and_never_shown(service: StandIn) -> None:
    service.says(said({"data": []}))
    with Client(service.url, "a-secret-key") as client:
        client.models()
        assert "secret" not in repr(client)
    assert service.asked[0].headers["authorization"] == "Bearer a-secret-key"
    for key in ("secret\nkey", "secret key", "sëcret", b"secret", "s" * 1000):
        with pytest.raises(InvalidArgument) as raised:
            Client(service.url, key)  # type: ignore[arg-type]
        assert "cret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["localhost:3000", "ftp://host", "http://", "http://-ü", "http://h/\udcff", "", None, 3]
)
def test_client__wants_an_address(url: Any) -> None:
    with pytest.raises(InvalidArgument):
        Client(url)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": "5"}, {"timeout": -1}, {"attempts": 0}, {"attempts": 1.5}]
)
def test_client__wants_sensible_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Client("http://localhost:3000", **options)


def test_client__keeps_a_path_and_hides_a_password(service: StandIn) -> None:
    service.says(said({"data": []}))
    with Client(service.url.replace("//", "//me:pass@") + "/zoo/") as client:
        client.models()
        assert "pass" not in repr(client)
    assert service.asked[0].path == "/zoo/v1/models"


def test_client__that_is_closed_says_so(service: StandIn) -> None:
    with Client(service.url) as client:
        pass
    with pytest.raises(InvalidArgument, match="closed"):
        client.models()


@pytest.mark.parametrize("name", ["", ".", "..", "../heads/x", "a/b", "a?b", "-a", "ä", "x" * 65, 3])
def test_names__lead_to_no_other_route(service: StandIn, client: Client, name: Any) -> None:
    for call in (
        lambda: client.delete(name),
        lambda: client.search(PHOTO, name),
        lambda: client.add(name, ["a"], [PHOTO]),
        lambda: client.fit(name, {"cat": [PHOTO]}),
        lambda: client.delete_head(name),
        lambda: client.head(name),
        lambda: client.export(name, "nothing.npz"),
    ):
        with pytest.raises(InvalidArgument, match="is not a name"):
            call()
    assert service.asked == []


def test_arguments__of_a_wrong_shape(service: StandIn, client: Client, tmp_path: Path) -> None:
    for call in (
        lambda: client.add("g", "ab", [PHOTO, PHOTO]),  # type: ignore[arg-type]
        lambda: client.add("g", ["a"], PHOTO),  # type: ignore[arg-type]
        lambda: client.add("g", ["a"], [PHOTO], []),
        lambda: client.add("g", ["a"], [PHOTO], [{"when": object()}]),
        lambda: client.delete("g", "ab"),  # type: ignore[arg-type]
        lambda: client.delete("g", [1]),  # type: ignore[list-item]
        lambda: client.fit("h", {"cat": "photo.jpg"}),  # type: ignore[dict-item]
        lambda: client.fit("h", ["photo.jpg"]),  # type: ignore[arg-type]
        lambda: client.search(PHOTO, "g" * 70_000),
        lambda: client.search(PHOTO, "\ud800"),
        lambda: client.classify(PHOTO, head="\ud800"),
        lambda: client.export("g", tmp_path / "no" / "folder.npz"),
    ):
        with pytest.raises(InvalidArgument):
            call()
    with pytest.raises(leap_zoo.UnknownSpace):
        client.fit("h", {"cat": [PHOTO]}, space="outer")  # type: ignore[arg-type]
    with pytest.raises(leap_zoo.UnreadableFile, match="class 'dog', image 1 of 2"):
        client.fit("h", {"cat": [PHOTO], "dog": [PHOTO, tmp_path / "missing.jpg"]})
    assert service.asked == []


def test_delete__without_any_id_deletes_nothing(service: StandIn, client: Client) -> None:
    client.delete("holiday", [])
    assert service.asked == []


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=256), max_size=300))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_delete__sends_every_id_once_in_short_addresses(service: StandIn, client: Client, ids: list[str]) -> None:
    service.says(said({"deleted": 1}))
    client.delete("holiday", ids)
    sent = [one for asked in service.asked for one in parse_qs(urlsplit(asked.path).query)["id"]]
    assert sent == ids
    assert all(
        len(asked.path) < 8000 and asked.path.startswith("/v1/galleries/holiday/items?") for asked in service.asked
    )


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=20), st.integers(1, 3), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fit__sends_labels_as_they_are(service: StandIn, client: Client, classes: dict[str, int]) -> None:
    service.says(said({"name": "pets"}, 201))
    assert client.fit("pets", {label: [PHOTO] * number for label, number in classes.items()}) == {"name": "pets"}
    sent = json.loads(service.asked[-1].body)["classes"]
    assert {label: len(photos) for label, photos in sent.items()} == classes


def test_export__that_breaks_leaves_the_file_as_it_was(service: StandIn, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "holiday.npz"
    path.write_bytes(b"before")
    service.says(refused(404, "unknown_gallery"))
    with pytest.raises(ServiceRefused):
        client.export("holiday", path)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"before"]
    service.says(Answer(b"after"))
    client.export("holiday", path)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"after"]


def test_head__invalid(service: StandIn, client: Client) -> None:
    service.says(Answer(b"\x00" * 100))
    with pytest.raises(leap_zoo.InvalidHead):
        client.head("pets")


_NAMES = st.sampled_from(
    [
        "predictions",
        "embeddings",
        "hits",
        "dim",
        "model",
        "revision",
        "data",
        "galleries",
        "heads",
        "id",
        "embedding_dims",
        "student",
        "label",
        "score",
        "index",
        "metadata",
        "code",
        "detail",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES | st.text(max_size=5), inner, max_size=6),
    max_leaves=15,
)
_BODIES = st.binary(max_size=200) | _VALUES.map(lambda value: json.dumps(value).encode())
_HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "location", "content-encoding", "content-type"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)


@given(_BODIES, st.sampled_from([200, 201, 204, 301, 400, 404, 415, 422, 429, 500, 503]), _HEADERS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers__of_any_kind_raise_only_own_errors(
    service: StandIn, client: Client, tmp_path: Path, body: bytes, status: int, headers: dict[str, str]
) -> None:
    service.says(Answer(b"" if status == 204 else body, status, headers))
    for call in (
        lambda: client.classify([PHOTO, PHOTO]),
        lambda: client.embed(PHOTO),
        lambda: client.embed([]),
        lambda: client.search(PHOTO, "holiday"),
        lambda: client.head("pets"),
        lambda: client.export("holiday", tmp_path / "holiday.npz"),
        lambda: client.fit("pets", {"cat": [PHOTO]}),
    ):
        with contextlib.suppress(leap_zoo.LeapZooError):
            call()
    assert len(service.asked) <= 7 * 5


def test_galleries__are_asked_by_the_paths_of_this_version(service: StandIn, client: Client, tmp_path: Path) -> None:
    service.says(said({"galleries": [], "hits": [[]], "model": "m", "revision": "1"}))
    client.galleries()
    client.add("g", ["a"], [PHOTO], space="teacher")
    client.search(PHOTO, "g", k=3)
    client.delete("g", ["a"])
    client.export("g", tmp_path / "g.npz")
    client.delete("g")
    assert [f"{asked.method} {asked.path}" for asked in service.asked] == [
        "GET /v1/galleries",
        "POST /v1/galleries/g/items?create=true&space=teacher",
        "POST /v1/galleries/g/search?k=3",
        "DELETE /v1/galleries/g/items?id=a",
        "GET /v1/galleries/g/export",
        "DELETE /v1/galleries/g",
    ]
