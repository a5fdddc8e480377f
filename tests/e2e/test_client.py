"""`leap_zoo.client` against a running server: the same answers and errors as `Model`."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from leap_zoo.client import Client


@pytest.fixture(scope="module")
def client(server) -> Iterator[Client]:
    with Client(server.url, timeout=300) as client:
        yield client


@pytest.fixture(scope="module")
def model(tiny_zoo: Path) -> leap_zoo.Model:
    return leap_zoo.load("leap-tiny-test", zoo=tiny_zoo, threads=1)


def test_client__answers_as_the_model_does(client: Client, model: leap_zoo.Model, colour_photos) -> None:
    paths = list(colour_photos.values())
    images = [paths[0], str(paths[1]), paths[2].read_bytes(), Image.open(paths[0]), np.zeros((9, 7, 3), np.uint8)]
    for image in images:
        assert np.allclose(client.embed(image), model.embed(image), atol=1e-6)
        assert [one.label for one in client.classify(image, top=2)] == [
            one.label for one in model.classify(image, top=2)
        ]
    many = client.embed(images * 8, space="teacher")  # more than one request
    assert np.allclose(many, model.embed(images * 8, space="teacher"), atol=1e-6)
    assert len(client.embed([])) == 0
    assert client.classify([]) == []
    assert client.models()[0]["id"] == "leap-tiny-test"


def test_client__raises_as_the_model_does(client: Client, colour_photos) -> None:
    red = colour_photos["red"].read_bytes()
    with pytest.raises(leap_zoo.NotAnImage, match="image 33 of 34"):
        client.embed([red] * 33 + [b"no photo"])
    with pytest.raises(leap_zoo.UndecodableImage):
        client.embed(red[:100])
    with pytest.raises(leap_zoo.UnknownHead):
        client.classify(red, head="nonsense")
    with pytest.raises(leap_zoo.UnknownModel):
        client.classify(red, model="nonsense")
    with pytest.raises(leap_zoo.UnknownSpace):
        client.embed(red, space="outer")
    with pytest.raises(leap_zoo.InvalidArgument):
        client.classify(red, top=0)


def test_client__the_other_head(client: Client, tiny_zoo: Path, colour_photos) -> None:
    model = leap_zoo.load("leap-tiny-test", zoo=tiny_zoo, threads=1)
    for path in colour_photos.values():
        assert np.allclose(client.embed(path), model.embed(path), atol=1e-6)
        ours, theirs = client.classify(path, head="brightness"), model.classify(path, head="brightness")
        assert [one.label for one in ours] == [one.label for one in theirs]
        assert [one.score for one in ours] == pytest.approx([one.score for one in theirs], abs=1e-6)


def test_client__takes_an_array_of_many(client: Client, model: leap_zoo.Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), np.uint8)
    assert np.allclose(client.embed(images), model.embed(images), atol=1e-6)
    assert len(client.classify(images)) == 5


def test_client__threads_get_their_own_answers(client: Client, colour_photos) -> None:
    together = threading.Barrier(8)

    def ask(number: int) -> bool:
        colour = list(colour_photos)[number % 3]
        together.wait(30)
        return all(client.classify(colour_photos[colour])[0].label == colour for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))


def test_client__keeps_and_searches_a_gallery(client: Client, colour_photos, tmp_path: Path) -> None:
    photos = [colour_photos[name] for name in ("red", "green", "blue")] * 12  # more than one request
    ids = [f"{path.stem} {number} ü/?&" for number, path in enumerate(photos)]
    client.add("of-the-client", ids, photos, [{"colour": path.stem, "number": n} for n, path in enumerate(photos)])
    try:
        about = next(one for one in client.galleries() if one["name"] == "of-the-client")
        assert (about["items"], about["model"], about["space"]) == (36, "leap-tiny-test", "student")
        hits = client.search(photos[1], "of-the-client", k=12)
        assert {hit.metadata["colour"] for hit in hits} == {"green"}
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        found = client.search(photos[:2], "of-the-client", k=1, where={"number": 7})
        assert [[hit.id for hit in row] for row in found] == [[ids[7]], [ids[7]]]

        client.export("of-the-client", tmp_path / "all.npz")
        with np.load(tmp_path / "all.npz", allow_pickle=False) as archive:
            assert sorted(archive["ids"]) == sorted(ids)
            assert archive["embeddings"].shape == (36, 8)

        client.delete("of-the-client", [*ids[1:], "never there"])
        assert [hit.id for hit in client.search(photos[0], "of-the-client")] == ids[:1]
        with pytest.raises(leap_zoo.ServiceRefused, match="holds embeddings of"):
            client.add("of-the-client", ["a"], photos[:1], space="teacher")
        with pytest.raises(leap_zoo.NotAnImage, match="image 33 of 34"):
            client.add("of-the-client", ids[:34], [*photos[:33], b"no photo"])
    finally:
        client.delete("of-the-client")
    with pytest.raises(leap_zoo.ServiceRefused) as refused:
        client.search(photos[0], "of-the-client")
    assert (refused.value.status, refused.value.code) == (404, "unknown_gallery")


def test_client__fits_a_head_that_both_can_use(
    client: Client, model: leap_zoo.Model, colour_photos, tmp_path: Path
) -> None:
    def variants(name: str) -> list[bytes]:
        photo = Image.open(colour_photos[name])
        return [_png(photo.crop((n, n, 60 + n, 50 + n))) for n in range(4)]

    classes = {'warm "red" %22\\': variants("red"), "kühl": variants("blue")}
    made = client.fit("of-the-client", classes)
    try:
        assert (made["labels"], sum(made["photos"])) == (sorted(classes), 8)
        assert [one["name"] for one in client.heads()] == ["of-the-client"]
        served = client.classify(colour_photos["blue"], head="of-the-client")
        assert served[0].label == "kühl"
        client.head("of-the-client").save(tmp_path / "colours.head")
        ours = model.classify(colour_photos["blue"], head=leap_zoo.CustomHead.load(tmp_path / "colours.head"))
        assert [(one.label, one.index) for one in ours] == [(one.label, one.index) for one in served]
        assert np.allclose([one.score for one in ours], [one.score for one in served], atol=1e-6)
        with pytest.raises(leap_zoo.ServiceRefused) as refused:
            client.fit("of-the-client", classes)
        assert refused.value.code == "head_exists"
        assert client.fit("of-the-client", classes, space="teacher", replace=True)["space"] == "teacher"
    finally:
        client.delete_head("of-the-client")
    assert client.heads() == []
    with pytest.raises(leap_zoo.UnknownHead):
        client.classify(colour_photos["blue"], head="of-the-client")


def test_client__with_and_without_a_key(keyed_server, key: str, golf_ball: Image.Image) -> None:
    for wrong, code in ((None, "missing_key"), ("wrong-key-of-nobody", "wrong_key")):
        with Client(keyed_server.url, wrong) as client, pytest.raises(leap_zoo.ServiceRefused) as refused:
            client.classify(golf_ball)
        assert (refused.value.status, refused.value.code) == (401, code)
    with Client(keyed_server.url, key=key) as client:
        assert client.classify(golf_ball)[0].label == "golf ball"
        many = client.classify([golf_ball] * 6)  # in requests of 5 at most
        assert [row[0].label for row in many] == ["golf ball"] * 6
        with pytest.raises(leap_zoo.ServiceRefused) as refused:
            client.embed(b"\xff" * (3 * 2**20))
        assert (refused.value.status, refused.value.code) == (413, "body_too_large")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_client__url_of_another_page(server) -> None:
    with Client(server.url + "/docs") as client, pytest.raises(leap_zoo.ServiceRefused, match="Nothing is served"):
        client.models()
