"""The graph as a file: the same numbers as torch at every batch, for old runtimes, and nothing of the builder in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx as onnx_format
import onnxruntime
import pytest
import torch
from small_export import lenient_gate
from torch.nn import functional

import leap_zoo
from export import int8, onnx_writer, publish
from export.card import DEFAULT, NAMES, metadata, revision
from export.golden import draw
from export.graph import DeployedStudent, weights_of
from leap_zoo.documents import read_card
from train.run import Run, load_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["cls", "patch_mean"])
def pooled(request: pytest.FixtureRequest, run_folder: Path) -> tuple[DeployedStudent, onnxruntime.InferenceSession]:
    """The torch graph and the exported one, for each way of pooling."""
    run = load_run(run_folder)
    run.info.pooling = request.param
    model = DeployedStudent(run).eval()
    proto = onnx_writer.finish(onnx_writer.write(weights_of(model)), metadata(run))
    return model, onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_file__answers_as_torch_at_any_batch(
    pooled: tuple[DeployedStudent, onnxruntime.InferenceSession], batch: int
) -> None:
    model, session = pooled
    images = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images))
    found = session.run(model.names, {"image": images})
    for name, ours, theirs in zip(model.names, found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=1e-5, err_msg=name)  # logits may be large


def test_graph__normalises_pools_and_projects_as_training_did(run: Run, model: DeployedStudent) -> None:
    pixels = torch.from_numpy(draw(32))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (run.info.mean, run.info.std))
    with torch.inference_mode():
        tokens = run.student.forward_features((pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
        cls, features = tokens[:, 0], tokens[:, 0] if run.info.pooling == "cls" else tokens[:, 1:].mean(1)
        space = functional.linear(cls, run.tensors["projection.cls.weight"], run.tensors["projection.cls.bias"])
        expected = {
            "embedding": functional.normalize(features, dim=1),
            "teacher_embedding": functional.normalize(space, dim=1),
            "logits_digits": functional.linear(
                features, run.tensors["heads.digits.weight"], run.tensors["heads.digits.bias"]
            ),
            "logits_digits-teacher": functional.linear(
                space, run.tensors["heads.digits-teacher.weight"], run.tensors["heads.digits-teacher.bias"]
            ),
        }
        found = dict(zip(model.names, model(pixels), strict=True))
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("file", ["model.onnx", "model_fp16.onnx", "model_int8.onnx"])
def test_file__is_for_old_runtimes_and_stands_alone(published: Path, file: str) -> None:
    proto = onnx_format.load(published / "leap-digits" / file, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert proto.ir_version == 8
    assert len(proto.functions) == 0
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    (image,) = proto.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == onnx_format.TensorProto.UINT8
    batch, *rest = image.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [axis.dim_value for axis in rest] == [32, 32, 3]


def test_files__have_complete_metadata(published: Path, card: leap_zoo.ModelCard) -> None:
    for artifact in (artifact for artifact in card.artifacts if artifact.format == "onnx"):
        proto = onnx_format.load(published / "leap-digits" / artifact.file)
        found = {entry.key: entry.value for entry in proto.metadata_props}
        assert (found["model_id"], found["revision"]) == ("leap-digits", card.revision)
        assert json.loads(found["labels"])["digits"] == list("0123456789")
        assert found["default_head"] == card.default_head
        assert json.loads(found["preprocessing"]) == {"size": 32, "short_side": 32, "filter": "bicubic"}
        assert json.loads(found["licences"])["weights"] == "Apache-2.0"


def test_published_folder__holds_no_path_of_the_builder(published: Path) -> None:
    files = [path for path in published.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "index.json",
        "card.json",
        "README.md",
        "golden.npz",
        "model.onnx",
        "curriculum.svg",
        *(NAMES[kind] for kind in DEFAULT),
        "model_fp16.bin",
        "model_int8.bin",
        *(file.file for file in read_card(published / "leap-digits" / "card.json").timm),
    }
    marks = (str(ROOT), str(Path.home()), str(published), "site-packages", "/tmp/", "stack_trace", 'File \\"')
    for path in files:
        content = path.read_bytes()
        assert [mark for mark in marks if mark.encode() in content] == [], path.name


def test_build__gives_the_same_bytes_in_another_folder(
    run_folder: Path, published: Path, card: leap_zoo.ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every file, int8 too: nothing in it depends on the moment, on the folder where it is built, or on the run's.

    And nothing is reported to anyone, nor written into the home folder.
    """
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(run_folder, tmp_path / "elsewhere" / "the run")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(int8, "_sensitivity", lambda *_: [])  # what is published does not depend on them here
    monkeypatch.setattr(int8, "rival", None)
    with lenient_gate():
        run = load_run(Path("the run"))
        forms, _ = publish.build(run, DeployedStudent(run).eval(), DEFAULT, lambda line: None)
    built = {NAMES[form.kind]: [hashlib.sha256(content).hexdigest() for content in form.contents] for form in forms}
    home = published / card.id
    assert built == {
        artifact.file: [hashlib.sha256((home / file.file).read_bytes()).hexdigest() for file in artifact.files]
        for artifact in card.artifacts
    }
    import nncf.telemetry.wrapper
    import openvino.tools.ovc.telemetry_utils

    assert type(nncf.telemetry.wrapper.telemetry).__name__ != "NNCFTelemetry"
    assert openvino.tools.ovc.telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert list((tmp_path / "home").iterdir()) == []


def test_revision__follows_the_weights(run: Run) -> None:
    before = revision(run)
    assert revision(run) == before
    run.tensors["heads.digits.bias"] = run.tensors["heads.digits.bias"] + 1e-3
    assert revision(run) != before


def test_golden_photos__are_reproducible_and_all_different() -> None:
    photos = draw(48)
    assert photos.dtype == np.uint8
    assert photos.shape == (4, 48, 48, 3)
    np.testing.assert_array_equal(photos, draw(48))
    assert len({photo.tobytes() for photo in photos}) == 4
    assert photos.std(axis=(1, 2, 3)).min() > 20
