"""Fixtures for every room: a tiny zoo made by code, and sample photos that need no download.

`tiny_zoo` is the path of a zoo folder with one model, `leap-tiny-test`, fp32 and int8, that keeps the graph contract.
Its answers are predictable: head `colours` (default) says which of red, green, blue is strongest in the photo, head
`brightness` says dark or bright. The folder is shared by the session: tests that write use `zoo_copy`.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import drawn
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from export.golden import TOLERANCE, golden_bytes
from export.zoo import publish
from leap_zoo import card as cards
from leap_zoo.runtime import open_session

TINY = "leap-tiny-test"
TINY_SIZE = 32
TINY_DIMS = {"student": 8, "teacher": 12}
COLOURS = ["red", "green", "blue"]
BRIGHTNESS = ["dark", "bright"]

# A slow machine finds the same examples, only later.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


ONE_BY_ONE = "leap_zoo"  # the room of many files without costly fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The room whose files are tested one by one comes last, so that of two processes neither is idle at the end."""
    items.sort(key=lambda item: item.path.parent.name == ONE_BY_ONE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2` (pytest-xdist) a room is tested by one process, which makes the fixtures of its session once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.split("::")[0])
            room = path.parts[1]
            return path.name if room == ONE_BY_ONE else room

    return ByRoom(config, log)


@pytest.fixture(autouse=True)
def no_pulled_models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LEAP_ZOO_HOME: what a developer has pulled must not decide a test."""
    home = tmp_path_factory.mktemp("home") / "cache"
    monkeypatch.setenv("LEAP_ZOO_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a zoo with `leap-tiny-test`. Read only."""
    return build_tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def zoo_copy(tiny_zoo: Path, tmp_path: Path) -> Path:
    """A copy of the tiny zoo that a test may damage."""
    return Path(shutil.copytree(tiny_zoo, tmp_path / "zoo"))


@pytest.fixture(scope="session")
def colour_photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Drawn photos by what the tiny model says about them: `red` a JPEG, `green` a PNG, `blue` a WebP, 80 x 60."""
    folder = tmp_path_factory.mktemp("colours")
    paths = {}
    for channel, (name, suffix) in enumerate(zip(COLOURS, ("jpg", "png", "webp"), strict=True)):
        pixels = np.random.default_rng(channel).integers(0, 60, (60, 80, 3), dtype=np.uint8)
        pixels[..., channel] += 180
        paths[name] = folder / f"{name}.{suffix}"
        Image.fromarray(pixels).save(paths[name])
    return paths


@pytest.fixture(scope="session")
def sample_photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real photos as JPEG files (astronaut 512 x 512, coffee 600 x 400); they ship inside scikit-image."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for name in ("astronaut", "coffee"):
        paths.append(folder / f"{name}.jpg")
        Image.fromarray(getattr(data, name)()).save(paths[-1], quality=92)
    return paths


@pytest.fixture(scope="session")
def golf_ball() -> Image.Image:
    """A drawn photo of one of the bundled students' classes."""
    return drawn.golf_ball()


def build_tiny_zoo(folder: Path) -> Path:
    """Publish `leap-tiny-test` in `folder` and return it."""
    home = folder / TINY
    home.mkdir(parents=True)
    artifacts, golden = [], {}
    images = golden["image"] = np.random.default_rng(0).integers(0, 256, (3, TINY_SIZE, TINY_SIZE, 3), dtype=np.uint8)
    for file, precision in (("model.onnx", "fp32"), ("model_int8.onnx", "int8")):
        data = tiny_graph(quantised=precision == "int8")
        (home / file).write_bytes(data)
        artifact = cards.Artifact(
            file=file,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            precision=precision,
            opset=17,
            ir=8,
            minimum_runtime="1.17",
            tools={"onnx": "any"},
            quantisation={"weights": "int8 per tensor"} if precision == "int8" else None,
            metrics=[
                cards.Metric(
                    name="top1", dataset="drawn", split="test", n=3, value=1.0, interval=(0.3, 1.0), head="colours"
                )
            ],
        )
        artifacts.append(artifact)
        session = open_session(artifact, [data], threads=1)
        names = [f"{file}/{output}" for output in session.outputs]
        golden |= dict(zip(names, session.run(images, list(session.outputs)), strict=True))
    content = golden_bytes(golden)
    (home / "golden.npz").write_bytes(content)
    publish(folder, tiny_card(artifacts, content))
    return folder


def tiny_card(artifacts: list[cards.Artifact], golden: bytes) -> cards.ModelCard:
    """The card of the tiny model."""
    size = TINY_SIZE
    return cards.ModelCard(
        id=TINY,
        revision="1",
        description="Says which colour is strongest; made by code, for tests",
        parameters=300,
        licences=cards.Licences(code="Apache-2.0", weights="Apache-2.0", teacher="none", data="none"),
        preprocessing=cards.Preprocessing(size=size, short_side=36),
        heads=[
            cards.Head(name="colours", output="logits_colours", labels=COLOURS),
            cards.Head(name="brightness", output="logits_brightness", labels=BRIGHTNESS),
        ],
        default_head="colours",
        inputs=[cards.Tensor(name="image", dtype="uint8", shape=["batch", size, size, 3])],
        outputs=[
            cards.Tensor(name="embedding", dtype="float32", shape=["batch", TINY_DIMS["student"]]),
            cards.Tensor(name="teacher_embedding", dtype="float32", shape=["batch", TINY_DIMS["teacher"]]),
            cards.Tensor(name="logits_colours", dtype="float32", shape=["batch", len(COLOURS)]),
            cards.Tensor(name="logits_brightness", dtype="float32", shape=["batch", len(BRIGHTNESS)]),
        ],
        embedding_dims=cards.EmbeddingDims(**TINY_DIMS),
        artifacts=artifacts,
        golden=cards.Golden(
            file="golden.npz", bytes=len(golden), sha256=hashlib.sha256(golden).hexdigest(), tolerance=TOLERANCE
        ),
        training=cards.Training(
            recipe="none.yaml",
            seed=0,
            commit="0000000",
            epochs=1,
            strategy="leap",
            teacher=cards.Teacher(name="none", provenance="made by code"),
            teacher_flops=1e9,
            total_flops=2e9,
            teacher_flops_saved=0.25,
            curriculum=[
                cards.CurriculumStep(step=0, block=1, similarity=0.4, reason="calibration"),
                cards.CurriculumStep(step=10, block=2, similarity=0.9, reason="similarity"),
                cards.CurriculumStep(step=30, block=3, similarity=0.5, reason="timeout"),
            ],
        ),
    )


def tiny_graph(*, quantised: bool) -> bytes:
    """An ONNX file that keeps the graph contract: mean colours of a 2 x 2 grid, then one matrix per output."""
    from onnx import TensorProto, checker, helper, numpy_helper

    random = np.random.default_rng(1)
    channels = np.tile(np.eye(3, dtype=np.float32), (4, 1))  # (12, 3): features are grid cells x channels
    weights = {
        "embedding": random.normal(size=(12, TINY_DIMS["student"])).astype(np.float32),
        "teacher_embedding": random.normal(size=(12, TINY_DIMS["teacher"])).astype(np.float32),
        "logits_colours": channels * 0.5,
        "logits_brightness": np.stack([-np.ones(12), np.ones(12)], axis=1).astype(np.float32),
    }
    cell = TINY_SIZE // 2
    constants = {
        "grid": np.array([-1, 2, cell, 2, cell, 3], np.int64),
        "flat": np.array([-1, 12], np.int64),
        "half": np.array(127.5, np.float32),
        "one": np.array(1.0, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "half"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["centred"]),  # -1..1
        helper.make_node("Reshape", ["centred", "grid"], ["cells"]),
        helper.make_node("ReduceMean", ["cells"], ["means"], axes=[2, 4], keepdims=0),
        helper.make_node("Reshape", ["means", "flat"], ["features"]),
    ]
    for output, weight in weights.items():
        matrix = f"{output}_weight"
        if quantised:
            scale = np.abs(weight).max() / 127
            constants |= {
                f"{matrix}_int8": np.rint(weight / scale).astype(np.int8),
                f"{matrix}_scale": np.array(scale, np.float32),
                f"{matrix}_zero": np.array(0, np.int8),
            }
            parts = [f"{matrix}_{part}" for part in ("int8", "scale", "zero")]
            nodes.append(helper.make_node("DequantizeLinear", parts, [matrix]))
        else:
            constants[matrix] = weight
        if output.startswith("logits"):
            nodes.append(helper.make_node("MatMul", ["features", matrix], [output]))
            continue
        raw, norm = f"{output}_raw", f"{output}_norm"
        nodes.append(helper.make_node("MatMul", ["features", matrix], [raw]))
        nodes.append(helper.make_node("ReduceL2", [raw], [norm], axes=[1], keepdims=1))
        nodes.append(helper.make_node("Div", [raw, norm], [output]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", TINY_SIZE, TINY_SIZE, 3])],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", weight.shape[1]])
            for output, weight in weights.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
