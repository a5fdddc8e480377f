"""`leap_zoo.client` against a running server: the same answers and errors as `Model`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leap_zoo
from leap_zoo.client import Client


@pytest.fixture(scope="module")
def client(server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def model(tiny_zoo: Path) -> leap_zoo.Model:
    return leap_zoo.load("leap-tiny-test", zoo=tiny_zoo, threads=1)


def test_client__answers_as_the_model_does(client: Client, model: leap_zoo.Model, colour_photos) -> None:
    paths = list(colour_photos.values())
    images = [paths[0], str(paths[1]), paths[2].read_bytes(), Image.open(paths[0]), np.zeros((9, 7, 3), np.uint8)]
    for image in images:
        assert np.array_equal(client.embed(image), model.embed(image))
        assert [one.label for one in client.classify(image, top=2)] == [
            one.label for one in model.classify(image, top=2)
        ]
    many = client.embed(images * 8, space="teacher")  # more than one request
    assert np.allclose(many, model.embed(images * 8, space="teacher"), atol=1e-6)
    assert client.embed([]).shape == model.embed([]).shape
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


def test_client__nobody_there() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(leap_zoo.ServiceFailed, match="cannot be reached"):
        client.models()
