"""The ExecuTorch files: published through the gate, run by `leap_zoo`; without the extra, said so."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_export import lenient_gate, small_export

import leap_zoo
from export import publish
from export.card import metadata
from export.formats import executorch
from export.graph import DeployedStudent
from leap_zoo.card import Artifact, ModelCard
from leap_zoo.documents import read_card
from leap_zoo.errors import ArtifactRefused, InvalidArgument, MissingExtra
from leap_zoo.verify import verify
from train.run import Run, load_run

INSTALLED = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(not INSTALLED, reason="the extra leap-zoo[executorch] is not installed")
KINDS = [("onnx", "fp32"), ("executorch", "fp32"), ("executorch", "int8")]


@pytest.fixture(scope="module")
def zoo(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A zoo with the run's fp32 ONNX file and its two programs."""
    zoo = tmp_path_factory.mktemp("programs")
    with small_export(), lenient_gate():
        _, refused = publish.publish(load_run(run_folder), zoo, KINDS, say=lambda line: None)
    assert refused == []
    return zoo


@needs_executorch
def test_program__is_listed_measured_and_verified(zoo: Path) -> None:
    card = read_card(zoo / "leap-digits" / "card.json")
    assert [artifact.file for artifact in card.artifacts] == ["model.onnx", "model.pte", "model_int8.pte"]
    fp32, int8 = card.artifacts[1:]
    assert int8.bytes < fp32.bytes
    assert {"top-1 drop from fp32", "embedding cosine to fp32, mean"} <= {metric.name for metric in int8.metrics}
    assert {row.file for row in card.latency} == {artifact.file for artifact in card.artifacts}
    report = verify("leap-digits", zoo)
    assert report.ok
    assert all(artifact.runtime.startswith("executorch ") for artifact in report.artifacts[1:])
    assert "ExecuTorch int8" in (zoo / "leap-digits" / "README.md").read_text()


@needs_executorch
@pytest.mark.parametrize("photos", [1, 2, executorch.MOST_PHOTOS, executorch.MOST_PHOTOS + 1])
def test_program__answers_as_the_onnx_file(photos: int, zoo: Path) -> None:
    pixels = np.random.default_rng(photos).integers(0, 256, (photos, 32, 32, 3), dtype=np.uint8)
    outputs = ["logits_digits", "embedding", "teacher_embedding"]  # not in the program's order
    expected = leap_zoo.load("leap-digits", zoo=zoo, precision="fp32", format="onnx").run(pixels, outputs)
    program = leap_zoo.load("leap-digits", zoo=zoo, precision="fp32", format="executorch", threads=1)
    found = program.run(pixels, outputs)
    for name in outputs:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
    int8 = leap_zoo.load("leap-digits", zoo=zoo, precision="int8", format="executorch").run(pixels, ["embedding"])
    assert (int8["embedding"] * expected["embedding"]).sum(1).min() > 0.98


@needs_executorch
def test_program__same_student_same_bytes_and_says_what_it_is(run: Run, zoo: Path) -> None:
    again = executorch.build(DeployedStudent(run).eval(), metadata(run), int8=False)
    assert again == (zoo / "leap-digits" / "model.pte").read_bytes()
    loaded = leap_zoo.load("leap-digits", zoo=zoo, format="executorch", precision="fp32")
    assert loaded.session.metadata["model_id"] == "leap-digits"
    assert json.loads(loaded.session.metadata["labels"])["digits"] == list("0123456789")


@needs_executorch
def test_program__invalid_file_and_foreign_options_are_refused(zoo: Path) -> None:
    with pytest.raises(InvalidArgument, match="providers"):
        leap_zoo.load("leap-digits", zoo=zoo, format="executorch", providers=["CPUExecutionProvider"])
    with pytest.raises(InvalidArgument, match="exact"):
        leap_zoo.load("leap-digits", zoo=zoo, format="executorch", exact=False)
    card = read_card(zoo / "leap-digits" / "card.json")
    with pytest.raises(ArtifactRefused, match=r"cannot load model\.pte"):
        leap_zoo.Model.open(card, card.artifacts[1], lambda _: b"nothing of that kind" * 100)


@pytest.mark.skipif(INSTALLED, reason="ExecuTorch is installed")
def test_without_the_extra__export_and_load_explain_it(run: Run, card: ModelCard) -> None:
    with pytest.raises(MissingExtra, match=r"leap-zoo\[executorch\]"):
        executorch.build(DeployedStudent(run).eval(), {}, int8=False)
    program = Artifact(
        file="model.pte", bytes=1, sha256="0" * 64, precision="fp32", ir=12, minimum_runtime="1.5", format="executorch"
    )
    with pytest.raises(MissingExtra, match=r"leap-zoo\[executorch\]"):
        leap_zoo.Model.open(card, program, lambda _: b"x")
