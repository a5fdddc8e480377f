"""Which models are served: those that were loaded at the start, and no other at a client's word."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient

import leap_zoo
from export.zoo import publish
from leap_zoo import UnknownModel
from serve.app import make_app
from serve.engine import Engine, Models, load_models
from serve.problems import Refused
from serve.settings import ServeSettings
from serve.stores import open_stores

TINY = "leap-tiny-test"
NAMES = (TINY, "leap-tiny-b", "leap-tiny-c")


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of three models, which are the tiny one under three names."""
    folder = Path(shutil.copytree(tiny_zoo, tmp_path_factory.mktemp("three") / "zoo"))
    (card,) = leap_zoo.models(folder)
    for name in NAMES[1:]:
        shutil.copytree(folder / TINY, folder / name)
        publish(folder, msgspec.structs.replace(card, id=name))
    return folder


def names(models: Models) -> list[tuple[str, str]]:
    return [(model.card.id, model.artifact.precision) for model in models.all()]


def test_load__has_every_precision_of_the_models_that_were_named(zoo: Path) -> None:
    models = load_models(TINY, ["leap-tiny-b", TINY], zoo=zoo)
    assert names(models) == [(TINY, "int8"), (TINY, "fp32"), ("leap-tiny-b", "int8"), ("leap-tiny-b", "fp32")]
    for asked in ((None, None), (TINY, None), (TINY, "int8"), (None, "int8")):
        assert models.get(*asked) is models.default
    assert models.get(None, "fp32").artifact.precision == "fp32"


def test_load__of_an_unknown_model_fails(zoo: Path) -> None:
    with pytest.raises(UnknownModel, match="did you mean"):
        load_models(TINY, ["leap-tiny-bb"], zoo=zoo)


def test_load__leaves_out_a_damaged_second_file(zoo_copy: Path) -> None:
    (zoo_copy / TINY / "model.onnx").write_bytes(b"damaged")
    assert names(load_models(TINY, zoo=zoo_copy)) == [(TINY, "int8")]


def test_get__loads_nothing(zoo: Path) -> None:
    """Clients that cycled through model files kept the default model's client out: 45 of 47 requests were refused."""
    models = load_models(TINY, zoo=zoo)
    with pytest.raises(UnknownModel, match="leap-tiny-c"):
        models.get("leap-tiny-c")
    with pytest.raises(Refused) as caught:
        models.get(TINY, "fp16")
    assert caught.value.code == "model_not_here"
    assert names(models) == [(TINY, "int8"), (TINY, "fp32")]


def test_models__that_are_not_loaded_are_refused_and_the_default_one_is_answered(
    zoo: Path, colour_photos: dict[str, Path]
) -> None:
    engine = Engine(load_models(TINY, zoo=zoo), threads=1)
    client = TestClient(make_app(engine, open_stores(), ServeSettings()))
    photo = {"content": colour_photos["red"].read_bytes(), "headers": {"content-type": "image/jpeg"}}
    for name in NAMES[1:] * 4:
        refused = client.post(f"/v1/embed?model={name}", **photo)
        assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")
        assert client.post("/v1/embed", **photo).status_code == 200
    assert names(engine.models) == [(TINY, "int8"), (TINY, "fp32")]


def test_models__lists_the_served_models(client: TestClient) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["default"], model["revision"]) == (TINY, "model", True, "1")
    assert model["embedding_dims"] == {"student": 8, "teacher": 12}
    assert {one["precision"]: one["format"] for one in model["artifacts"]} == {"fp32": "onnx", "int8": "onnx"}
    assert all(one["loaded"] for one in model["artifacts"])
