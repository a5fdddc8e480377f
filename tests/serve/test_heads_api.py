"""/v1/heads through the application: made from labelled photos, used, exported, replaced, and what is refused."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from refused_requests import refusal, text
from starlette.testclient import TestClient

import leap_zoo
from leap_zoo.heads import CustomHead, decode_head
from serve.api import heads as routes
from serve.app import make_app
from serve.engine import Engine, Models
from serve.middleware import Gate
from serve.observe import Metrics
from serve.settings import ServeSettings
from serve.stores import open_stores

JPEG = {"content-type": "image/jpeg"}
TINY = "leap-tiny-test"
BAD_NAMES = ["%2e%2e", ".a", "-a", "a%20b", "a%00", "%C3%A4", "a" * 65, "a%0A"]

Opener = Callable[..., TestClient]
Classes = dict[str, list[bytes]]


def drawn(channel: int, seed: int, folder: Path) -> bytes:
    """A photo in which one colour is strongest."""
    pixels = np.random.default_rng(seed).integers(0, 60, (40, 40, 3), dtype=np.uint8)
    pixels[..., channel] += 180
    path = folder / f"{channel}-{seed}.png"
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Classes:
    """Four photos of each of two classes."""
    folder = tmp_path_factory.mktemp("classes")
    return {label: [drawn(channel, seed, folder) for seed in range(4)] for label, channel in (("cold", 2), ("warm", 0))}


def form(classes: Classes) -> list[tuple[str, tuple[str, bytes]]]:
    return [(label, ("../photo.png", photo)) for label, photos in classes.items() for photo in photos]


def document(classes: Classes) -> dict[str, Any]:
    return {"classes": {label: [text(photo) for photo in photos] for label, photos in classes.items()}}


# what works


def test_create__by_form_and_by_json_are_the_same_head(api: TestClient, classes: Classes) -> None:
    by_form = api.post("/v1/heads/form", files=form(classes))
    by_json = api.post("/v1/heads/json", json=document(classes))
    assert by_form.status_code == by_json.status_code == 201, by_form.text
    made = by_form.json()
    assert (made["labels"], made["photos"], made["model"], made["revision"]) == (["cold", "warm"], [4, 4], TINY, "1")
    assert made["classes"][0] == {"label": "cold", "photos": 4, "tested": 4, "right": 4}
    assert (made["validation"]["n"], made["validation"]["accuracy"]) == (8, 1)
    assert (made["skipped"], made["confusions"], made["notes"]) == ({}, [], [])
    files = [api.get(f"/v1/heads/{name}/file").content for name in ("form", "json")]
    assert files[0] == files[1]


def test_create__a_photo_of_too_many_pixels_is_skipped(api: TestClient, classes: Classes) -> None:
    file = io.BytesIO()
    Image.new("1", (6000, 5000)).save(file, "PNG")
    made = api.post("/v1/heads/large", files=[*form(classes), ("cold", ("large.png", file.getvalue()))])
    assert made.status_code == 201, made.text
    (reason,) = made.json()["skipped"].values()
    assert "30 megapixels (limit: 25)" in reason


def test_create__is_shown_listed_and_there_after_a_restart(api: TestClient, site: Opener, classes: Classes) -> None:
    made = api.post("/v1/heads/Warmth?space=teacher", files=form(classes)).json()
    shown = api.get("/v1/heads/Warmth").json()
    assert shown == {key: made[key] for key in shown}
    assert shown["space"] == "teacher"
    assert api.get("/v1/heads").json() == {"heads": [shown]} == site().get("/v1/heads").json()


def test_classify__uses_the_head(api: TestClient, classes: Classes) -> None:
    api.post("/v1/heads/warmth", files=form(classes))
    photos = [classes["warm"][0], classes["cold"][1]]
    body = api.post("/v1/classify?head=warmth&top=1", files=[("image", photo) for photo in photos]).json()
    assert [row[0]["label"] for row in body["predictions"]] == ["warm", "cold"]
    assert body["head"] == "warmth"


def test_file__is_a_head_for_any_device(api: TestClient, classes: Classes, tmp_path: Path, tiny_zoo: Path) -> None:
    api.post("/v1/heads/warmth", files=form(classes))
    response = api.get("/v1/heads/warmth/file")
    assert response.headers["content-disposition"] == 'attachment; filename="warmth.head"'
    path = tmp_path / "warmth.head"
    path.write_bytes(response.content)
    model = leap_zoo.load(TINY, zoo=tiny_zoo, threads=1)
    assert model.classify(classes["warm"][0], head=CustomHead.load(path))[0].label == "warm"
    assert api.get("/v1/heads/warmth").json()["bytes"] == len(response.content)


def test_delete__is_gone_from_classify_too(api: TestClient, classes: Classes) -> None:
    api.post("/v1/heads/warmth", files=form(classes))
    photo = classes["warm"][0]
    assert api.post("/v1/classify?head=warmth", content=photo, headers=JPEG).status_code == 200
    assert api.delete("/v1/heads/warmth").status_code == 204
    assert refusal(api.post("/v1/classify?head=warmth", content=photo, headers=JPEG)) == ("unknown_head", None)
    assert refusal(api.delete("/v1/heads/warmth")) == ("unknown_head", None)
    assert api.get("/v1/heads").json() == {"heads": []}


def test_create__replaces_only_when_told(api: TestClient, classes: Classes) -> None:
    api.post("/v1/heads/h", files=form(classes))
    other = {"day": classes["warm"], "night": classes["cold"]}
    assert refusal(api.post("/v1/heads/h", files=form(other))) == ("head_exists", None)
    assert api.get("/v1/heads/h").json()["labels"] == ["cold", "warm"]
    assert api.post("/v1/heads/h?replace=true", files=form(other)).status_code == 201
    body = api.post("/v1/classify?head=h&top=1", content=classes["warm"][0], headers=JPEG).json()
    assert body["predictions"][0][0]["label"] == "day"


def test_create__skips_and_reports_files_that_are_not_photos(api: TestClient, classes: Classes) -> None:
    bad = [b"no photo", classes["warm"][0][:200], b""]
    sent = {"cold": classes["cold"], "warm": [classes["warm"][0], *bad, *classes["warm"][1:]]}
    for name, body in (("form", {"files": form(sent)}), ("json", {"json": document(sent)})):
        made = api.post(f"/v1/heads/{name}", **body).json()
        assert made["photos"] == [4, 4]
        assert sorted(made["skipped"]) == [f"warm, photo {number} (from 0)" for number in (1, 2, 3)]


def test_create__notes_copies(api: TestClient, classes: Classes) -> None:
    twice = {"cold": [*classes["cold"], classes["cold"][0]], "warm": classes["warm"]}
    made = api.post("/v1/heads/h", files=form(twice)).json()
    assert made["photos"] == [4, 4]
    assert made["notes"] == ["exact duplicates within a class were left out: 1"]


# what is refused


@pytest.mark.parametrize("name", BAD_NAMES)
def test_name__invalid(api: TestClient, classes: Classes, name: str) -> None:
    path = f"/v1/heads/{name}"
    for response in (
        api.get(path),
        api.get(path + "/file"),
        api.delete(path),
        api.post(path, files=form(classes)),
    ):
        assert refusal(response) == ("invalid_name", None)
    assert api.get("/v1/heads").json() == {"heads": []}


def test_head__missing(api: TestClient) -> None:
    for response in (api.get("/v1/heads/h"), api.get("/v1/heads/h/file"), api.delete("/v1/heads/h")):
        assert refusal(response) == ("unknown_head", None)


def test_create__not_under_the_name_of_the_models_own(api: TestClient, classes: Classes) -> None:
    assert refusal(api.post("/v1/heads/colours", files=form(classes))) == ("head_of_the_model", None)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({}, "missing_photo"),
        ({"cold": []}, "missing_photo"),
        ({"cold": [b"x"]}, "invalid_classes"),
        ({"cold": [b"x"], "warm": [b"y"]}, "invalid_classes"),
        ({"cold": [b"x"], "": [b"y"]}, "invalid_classes"),
        ({"cold": [b"x"], "w" * 301: [b"y"]}, "invalid_classes"),
    ],
)
def test_classes__invalid(api: TestClient, sent: Classes, code: str) -> None:
    assert refusal(api.post("/v1/heads/h", json=document(sent))) == (code, None)
    if any(sent.values()) and all(sent):
        assert refusal(api.post("/v1/heads/h", files=form(sent))) == (code, None)
    assert api.get("/v1/heads").json() == {"heads": []}


def test_classes__one_without_a_readable_photo_is_named(api: TestClient, classes: Classes) -> None:
    response = api.post("/v1/heads/h", files=form({"cold": classes["cold"], "grey": [b"no photo"]}))
    assert refusal(response) == ("invalid_classes", None)
    assert "'grey'" in response.json()["detail"]


def test_photos__too_many(site: Opener, classes: Classes) -> None:
    api = site(fit_photos=7)
    assert refusal(api.post("/v1/heads/h", files=form(classes))) == ("too_many_photos", None)
    assert refusal(api.post("/v1/heads/h", json=document(classes))) == ("too_many_photos", None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", ("broken_json", None)),
        (b"[]", ("invalid_body", None)),
        (b'{"classes": {"a": "AA=="}}', ("invalid_body", None)),
        (b'{"classes": {"a": ["AA=="]}, "seed": 1}', ("invalid_body", None)),
        (b'{"classes": {"a": ["AA==", "AA=="], "b": ["AA==", "no base64!"]}}', ("broken_base64", 3)),
        (b'{"classes": {"a": ["AA=="], "b": ["http://169.254.169.254/"]}}', ("address_not_fetched", 1)),
    ],
)
def test_json__broken_or_of_another_shape(api: TestClient, body: bytes, expected: tuple[str, int | None]) -> None:
    response = api.post("/v1/heads/h", content=body, headers={"content-type": "application/json"})
    assert refusal(response) == expected


def test_form__text_or_another_body(api: TestClient, classes: Classes) -> None:
    fields = [*form(classes), ("cold", (None, "text"))]
    assert refusal(api.post("/v1/heads/h", files=fields)) == ("unexpected_field", None)
    assert refusal(api.post("/v1/heads/h", content=classes["cold"][0], headers=JPEG)) == (
        "unsupported_content_type",
        None,
    )


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("space=both", "invalid_option"),
        ("seed=-1", "invalid_option"),
        ("seed=x", "invalid_option"),
        ("replace=perhaps", "invalid_option"),
        ("raplace=true", "invalid_option"),
        ("model=leap-none", "unknown_model"),
    ],
)
def test_options(api: TestClient, classes: Classes, query: str, code: str) -> None:
    assert refusal(api.post(f"/v1/heads/h?{query}", files=form(classes))) == (code, None)


def test_limits__are_conflicts(site: Opener, classes: Classes) -> None:
    api = site(heads=1)
    assert api.post("/v1/heads/h", files=form(classes)).status_code == 201
    assert refusal(api.post("/v1/heads/i", files=form(classes))) == ("too_many_heads", None)
    assert api.post("/v1/heads/h?replace=true", files=form(classes)).status_code == 201
    small = site(head_bytes=100)
    assert refusal(small.post("/v1/heads/i", files=form(classes))) == ("head_too_large", None)
    assert [one["name"] for one in small.get("/v1/heads").json()["heads"]] == ["h"]


def test_damaged_head__is_reported_without_a_path_and_can_be_replaced(
    api: TestClient, classes: Classes, tmp_path: Path
) -> None:
    api.post("/v1/heads/h", files=form(classes))
    (file,) = (tmp_path / "data" / "heads").glob("*.head")
    file.write_bytes(file.read_bytes()[:-1])
    for response in (
        api.get("/v1/heads/h"),
        api.get("/v1/heads/h/file"),
        api.post("/v1/classify?head=h", content=classes["warm"][0], headers=JPEG),
    ):
        assert refusal(response) == ("head_damaged", None)
        assert str(tmp_path) not in response.text
    assert api.get("/v1/heads").json() == {"heads": []}
    assert api.post("/v1/heads/h?replace=true", files=form(classes)).status_code == 201


def test_disk__unwritable_is_reported_without_a_path(
    api: TestClient, classes: Classes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        response = api.post("/v1/heads/h", files=form(classes))
    assert refusal(response) == ("store_unavailable", None)
    assert str(tmp_path) not in response.text
    assert list((tmp_path / "data" / "heads").iterdir()) == []
    assert api.post("/v1/heads/h", files=form(classes)).status_code == 201


# fitting takes a while


class Slow:
    """A `fit` that waits until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self._fit = routes.fit

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.begun.set()
        assert self.go.wait(30)
        return self._fit(*args, **options)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    held = Slow()
    monkeypatch.setattr(routes, "fit", held)
    return held


def test_fit__keeps_no_thread_from_answering(tiny_zoo: Path, classes: Classes, slow: Slow) -> None:
    alone = Engine(Models(leap_zoo.load(TINY, zoo=tiny_zoo, threads=1)), threads=1)
    api = TestClient(make_app(alone, open_stores(), ServeSettings()))
    answers: list[Any] = []
    one = threading.Thread(target=lambda: answers.append(api.post("/v1/heads/h", files=form(classes))))
    one.start()
    assert slow.begun.wait(30)
    assert api.post("/v1/classify", content=classes["warm"][0], headers=JPEG).status_code == 200
    refused = api.post("/v1/heads/i", files=form(classes))
    assert refusal(refused) == ("busy", None)
    assert int(refused.headers["retry-after"]) > 0
    slow.go.set()
    one.join(30)
    assert answers[0].status_code == 201


def test_fit__that_takes_too_long_leaves_no_head(engine: Engine, classes: Classes, slow: Slow, tmp_path: Path) -> None:
    app = make_app(engine, open_stores(tmp_path / "data"), ServeSettings())

    async def give_up(seconds: float) -> httpx.Response:
        limited = httpx.ASGITransport(Gate(app, app, ServeSettings(slow_timeout=seconds), Metrics()))
        async with httpx.AsyncClient(transport=limited, base_url="http://server") as hurried:
            return await hurried.post("/v1/heads/h", files=form(classes))

    async def run() -> tuple[httpx.Response, httpx.Response]:
        # On a slow machine the time may be up while the photos are still being embedded.
        seconds = 0.5
        given_up = await give_up(seconds)
        while not slow.begun.is_set():
            seconds *= 2
            given_up = await give_up(seconds)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            meanwhile = await client.post("/v1/heads/h", files=form(classes))
            slow.go.set()
            deadline = time.monotonic() + 30
            while (again := await client.post("/v1/heads/i", files=form(classes))).status_code == 503:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            assert again.status_code == 201
            listed = await client.get("/v1/heads")
            assert [one["name"] for one in listed.json()["heads"]] == ["i"]
            return given_up, meanwhile

    given_up, meanwhile = asyncio.run(run())
    assert refusal(given_up) == ("timed_out", None)
    assert refusal(meanwhile) == ("busy", None)
    assert [path.name for path in (tmp_path / "data" / "heads").iterdir()] == ["i.head"]


def test_head__of_another_revision_is_refused_by_classify(api: TestClient, classes: Classes) -> None:
    import msgspec

    api.post("/v1/heads/new", files=form(classes))
    made = decode_head(api.get("/v1/heads/new/file").content)
    old = CustomHead(msgspec.structs.replace(made.card, revision="0"), made.weight, made.bias)
    api.app.state.stores.heads.create("old", old)  # type: ignore[attr-defined]
    response = api.post("/v1/classify?head=old", content=classes["warm"][0], headers=JPEG)
    assert refusal(response) == ("head_of_another_model", None)
    assert api.delete("/v1/heads/old").status_code == 204
