"""Which models are in memory: loaded when first named, once, and never more than the bound."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient

import leap_zoo
from leap_zoo import ArtifactCorrupt, InvalidArgument, UnknownModel
from leap_zoo.publish import publish
from serve import models
from serve.models import Models
from serve.problems import Refused

TINY = "leap-tiny-test"
NAMES = (TINY, "leap-tiny-b", "leap-tiny-c", "leap-tiny-d")


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of four models, which are the tiny one under four names."""
    folder = Path(shutil.copytree(tiny_zoo, tmp_path_factory.mktemp("four") / "zoo"))
    (card,) = leap_zoo.models(folder)
    for name in NAMES[1:]:
        shutil.copytree(folder / TINY, folder / name)
        publish(folder, msgspec.structs.replace(card, id=name))
    return folder


def held(zoo: Path, most: int) -> Models:
    return Models(leap_zoo.load(TINY, zoo=zoo, threads=1), most=most, zoo=zoo)


def names(models: Models) -> list[tuple[str, str]]:
    return [(model.card.id, model.artifact.precision) for model in models.all()]


def test_get__the_default_needs_no_name(zoo: Path) -> None:
    models = held(zoo, 3)
    for asked in ((None, None), (TINY, None), (TINY, "int8"), (None, "int8")):
        assert models.get(*asked) is models.default
    assert models.get(None, "fp32").artifact.precision == "fp32"
    assert names(models) == [(TINY, "int8"), (TINY, "fp32")]


def test_get__the_same_file_is_one_model(zoo: Path) -> None:
    models = held(zoo, 3)
    assert models.held("leap-tiny-b") is None
    exact = models.get("leap-tiny-b", "int8")
    assert models.get("leap-tiny-b") is exact
    assert models.held("leap-tiny-b") is exact


def test_get__the_one_unused_for_longest_makes_room(zoo: Path) -> None:
    models = held(zoo, 3)
    models.get("leap-tiny-b")
    models.get("leap-tiny-c")
    models.get("leap-tiny-b")
    models.get("leap-tiny-d")
    assert [name for name, _ in names(models)] == [TINY, "leap-tiny-d", "leap-tiny-b"]
    assert models.get(TINY) is models.default


def test_get__a_server_of_one_model_says_so(zoo: Path) -> None:
    models = held(zoo, 1)
    assert models.get(TINY, "int8") is models.default
    with pytest.raises(Refused) as caught:
        models.get("leap-tiny-b")
    assert caught.value.code == "model_not_here"


def test_get__at_once_loads_once(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, together = [], threading.Barrier(4)
    original = models.open_artifact

    def counted(*arguments: object, **more: object) -> object:
        loads.append(arguments)
        return original(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(models, "open_artifact", counted)
    several = held(zoo, 3)

    def ask(_: int) -> object:
        together.wait(10)
        return several.get("leap-tiny-b")

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(ask, range(4)))
    assert len(found) == len(loads) == 1


def test_get__what_there_is_not(zoo: Path) -> None:
    models = held(zoo, 3)
    with pytest.raises(UnknownModel, match="did you mean 'leap-tiny-b'"):
        models.get("leap-tiny-bb")
    with pytest.raises(InvalidArgument, match="fp16"):
        models.get("leap-tiny-b", "fp16")
    assert names(models) == [(TINY, "int8")]


def test_get__a_damaged_file_is_not_served(zoo_copy: Path) -> None:
    models = held(zoo_copy, 3)
    (zoo_copy / TINY / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactCorrupt):
        models.get(TINY, "fp32")
    assert models.get(TINY) is models.default


def test_models__lists_what_may_be_asked_for(client: TestClient) -> None:
    client.post("/v1/embed?precision=int8", content=b"")
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["default"], model["revision"]) == (TINY, "model", True, "1")
    assert model["embedding_dims"] == {"student": 8, "teacher": 12}
    assert {one["precision"]: one["format"] for one in model["artifacts"]} == {"fp32": "onnx", "int8": "onnx"}
    assert {one["precision"] for one in model["artifacts"] if one["loaded"]} >= {"int8"}
