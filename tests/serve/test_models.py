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
from serve.engine import Engine, Models, load_models, start_engine
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


def test_load__has_one_file_of_each_model_that_was_named(zoo: Path) -> None:
    models = load_models(TINY, ["leap-tiny-b", TINY, "leap-tiny-b"], zoo=zoo)
    assert names(models) == [(TINY, "int8"), ("leap-tiny-b", "int8")]
    assert models.get() is models.get(TINY) is models.default
    assert models.get("leap-tiny-b").card.id == "leap-tiny-b"


def test_load__of_an_unknown_model_fails(zoo: Path) -> None:
    with pytest.raises(UnknownModel, match="did you mean"):
        load_models(TINY, ["leap-tiny-bb"], zoo=zoo)


def test_start__the_limits_on_a_photo_hold_for_what_the_models_read_themselves(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads are fitted by the models, which had the package's limits."""
    monkeypatch.setenv("LEAP_ZOO_URL", str(zoo))
    settings = ServeSettings(model=TINY, models=NAMES[1:2], max_megapixels=1, max_photo_mb=2)
    engine = start_engine(settings)
    assert {model.limits for model in engine.models.all()} == {engine.limits} == {settings.photo_limits}


def test_get__loads_nothing(zoo: Path) -> None:
    """Clients that cycled through model files kept the default model's client out: 45 of 47 requests were refused."""
    models = load_models(TINY, zoo=zoo)
    with pytest.raises(UnknownModel, match="leap-tiny-c"):
        models.get("leap-tiny-c")
    assert names(models) == [(TINY, "int8")]


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
    assert names(engine.models) == [(TINY, "int8")]


def test_models__lists_the_served_models(client: TestClient) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["default"], model["revision"]) == (TINY, "model", True, "1")
    assert model["embedding_dims"] == {"student": 8, "teacher": 12}
    assert (model["file"], model["precision"]) == ("model_int8.onnx", "int8")
