"""The gate: what is wrong is not listed, and the zoo stays as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx as onnx_format
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from small_export import DEPTH

import leap_zoo
from export import gate, int8, onnx_writer, publish
from export import zoo as publishing
from export.card import Built, Kind
from export.gate import GateFailed
from export.golden import draw
from export.graph import DeployedStudent, Weights
from export.photos import Labelled
from leap_zoo.card import Artifact, IndexEntry, Metric, ModelCard
from leap_zoo.errors import InvalidArgument
from leap_zoo.model import Model
from train.run import Run

Change = Callable[[np.ndarray], np.ndarray]


def altered(proto: onnx_format.ModelProto, change: Change) -> onnx_format.ModelProto:
    """A copy with `change` applied to every large matrix."""
    copy = onnx_format.ModelProto()
    copy.CopyFrom(proto)
    touched = 0
    for tensor in copy.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.ndim == 2 and min(value.shape) >= 32:
            tensor.CopyFrom(numpy_helper.from_array(change(value.copy()).astype(np.float32), tensor.name))
            touched += 1
    assert touched >= 4 * DEPTH
    return copy


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def only_file(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Whatever stays float, int8 is the fp32 graph with its weights changed."""
    makers = int8._makers

    def changed(weights: Weights, photos: np.ndarray, metadata: dict[str, str]) -> dict[str, int8.Make]:
        def spoilt(alpha: float, kept: tuple[str, ...]) -> Built:
            proto = altered(onnx_writer.write(weights), change)
            return Built(("onnx", "int8"), (onnx_writer.finish(proto, {}).SerializeToString(),), {"spoilt": True})

        return makers(weights, photos, metadata) | {"onnx": spoilt, "rival": spoilt}

    monkeypatch.setattr(int8, "_makers", changed)
    monkeypatch.setattr(int8, "MOST_FLOAT", 1)


FLOAT_AND_INT8: list[Kind] = [("onnx", "fp32"), ("onnx", "int8")]


def silent(line: str) -> None:
    """Say nothing."""


def metrics(n: int, drop: float, cosine: float, interval: tuple[float, float] | None = None) -> dict[str, Metric]:
    shared = {"dataset": "d", "split": "s", "n": n}
    return {
        gate.DROP: Metric(name=gate.DROP, value=drop, interval=interval, **shared),
        gate.COSINE: Metric(name=gate.COSINE, value=cosine, **shared),
    }


@pytest.mark.parametrize(
    ("compared", "reason"),
    [
        (metrics(1000, 0.005, 0.995), None),
        (metrics(1000, 0.0051, 0.999), "0.51% of top-1"),
        (metrics(5000, -0.01, 0.999), None),
        (metrics(1000, float("nan"), 0.999), "top-1"),
        (metrics(899, 0.03, 0.999, (-0.01, 0.07)), None),  # too few photos to be sure
        (metrics(360, 0.15, 0.999, (0.11, 0.19)), "11.00% at the very least"),
        (metrics(5000, 0.0, 0.9949), "cosine of 0.9949"),
        (metrics(10, 0.0, 0.9949), "cosine"),
        (metrics(1000, 0.0, float("nan")), "cosine"),
    ],
)
def test_objection__judges_drop_and_cosine(compared: dict[str, Metric], reason: str | None) -> None:
    found = gate.objection(compared)
    assert found is None if reason is None else reason in found


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(1000, 50000))
def test_objection__lets_nothing_through_that_breaks_a_limit(drop: float, cosine: float, n: int) -> None:
    assert (gate.objection(metrics(n, drop, cosine)) is None) == (drop <= 0.005 and cosine >= 0.995)


def test_fidelity__is_paired_and_has_known_values() -> None:
    labels = np.array([0, 0, 1, 1])
    before = np.eye(2, dtype=np.float32)[[0, 0, 1, 0]]  # three right
    after = np.eye(2, dtype=np.float32)[[0, 1, 1, 1]]  # one lost, one won
    embedding = np.array([[1, 0]] * 4, np.float32)
    turned = np.array([[1, 0], [1, 0], [1, 0], [0.6, 0.8]], np.float32)
    photos = Labelled(np.zeros((4, 1, 1, 3), np.uint8), labels, "h", "d", "val")
    found = gate.fidelity(
        {"embedding": embedding, "logits_h": before}, {"embedding": turned, "logits_h": after}, photos
    )
    assert found[gate.DROP].value == 0
    half = 1.959964 * np.sqrt(0.5) / 2
    assert found[gate.DROP].interval == pytest.approx((-half, half))
    assert found["top-1 agreement with fp32"].value == 0.5
    assert found[gate.COSINE].value == pytest.approx(0.9)
    assert found["embedding cosine to fp32, minimum"].value == pytest.approx(0.6)
    assert {metric.n for metric in found.values()} == {4}


def test_parity__holds_for_the_published_file(fp32: Model, model: DeployedStudent) -> None:
    assert 0 < gate.check_parity(fp32, model, draw(32)) < gate.PARITY_TOLERANCE


@pytest.mark.parametrize(
    "change", [lambda value: value * 1.01, lambda value: np.full_like(value, np.nan), lambda value: value[::-1]]
)
def test_parity__fails_for_an_altered_file(
    published: Path, card: ModelCard, model: DeployedStudent, change: Change
) -> None:
    artifact: Artifact = card.artifacts[0]
    proto = altered(onnx_format.load(published / "leap-digits" / artifact.file), change)
    file = Model.open(card, artifact, lambda _: proto.SerializeToString())
    with pytest.raises(GateFailed, match=r"model\.onnx differs from torch by .* not published"):
        gate.check_parity(file, model, draw(32))


def test_publish__of_a_student_with_a_nan_leaves_the_zoo_as_it_was(run: Run, tiny_zoo: Path, zoo_copy: Path) -> None:
    run.student.blocks[3].mlp.fc1.weight.data[0, 0] = float("nan")
    before = snapshot(zoo_copy)
    with pytest.raises(GateFailed, match="nan"):
        publish.publish(run, zoo_copy, FLOAT_AND_INT8, say=silent)
    assert snapshot(zoo_copy) == before == snapshot(tiny_zoo)
    assert [path.name for path in zoo_copy.iterdir() if path.name.startswith(".")] == []


def test_publish__of_a_graph_that_was_written_wrong_lists_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = onnx_writer.finish
    monkeypatch.setattr(
        onnx_writer, "finish", lambda proto, about: altered(finish(proto, about), lambda value: value * 1.1)
    )
    with pytest.raises(GateFailed, match="differs from torch"):
        publish.publish(run, tmp_path / "zoo", FLOAT_AND_INT8, say=silent)
    assert snapshot(tmp_path / "zoo") == {}


def test_publish__lists_fp32_alone_when_nothing_in_int8_passes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_file(monkeypatch, lambda value: value[::-1])
    card, refused = publish.publish(run, tmp_path, FLOAT_AND_INT8, say=silent)
    assert [artifact.precision for artifact in card.artifacts] == ["fp32"]
    assert len(refused) == 1
    assert "model_int8.onnx was not published: no int8 file passed; smooth 0.5: refused: it" in refused[0]
    assert [candidate.outcome[:7] for candidate in card.search.candidates] == ["refused"] * 2
    assert not (tmp_path / "leap-digits" / "model_int8.onnx").exists()
    assert list(leap_zoo.load("leap-digits", zoo=tmp_path).card.golden.tolerance) == ["fp32"]
    assert "model_int8" not in (tmp_path / "leap-digits" / "README.md").read_text()


def test_publish__judges_again_what_the_search_let_through(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search sees photos of the training split; the gate has the last word."""
    only_file(monkeypatch, lambda value: value[::-1])
    judged: list[int] = []

    def lenient_at_first(compared: dict[str, Metric], margin: float = 0.0) -> str | None:
        judged.append(compared[gate.DROP].n)
        return None if len(judged) == 1 else objection(compared)

    objection = gate.objection
    monkeypatch.setattr(gate, "objection", lenient_at_first)
    card, refused = publish.publish(run, tmp_path, FLOAT_AND_INT8, say=silent)
    assert judged == [40, 40, 360]  # the second is the library's
    assert [artifact.precision for artifact in card.artifacts] == ["fp32"]
    assert "model_int8.onnx was not published: it" in refused[0]


def test_publish__of_int8_alone_that_fails_lists_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_file(monkeypatch, lambda value: value[::-1])
    with pytest.raises(GateFailed, match=r"nothing was published: model_int8\.onnx"):
        publish.publish(run, tmp_path, [("onnx", "int8")], say=silent)
    assert snapshot(tmp_path) == {}


def test_publish__again_replaces_the_model_and_keeps_others(
    run: Run, zoo_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_file(monkeypatch, lambda value: value)
    first, _ = publish.publish(run, zoo_copy, FLOAT_AND_INT8, say=silent)
    assert [entry.id for entry in leap_zoo.models(zoo_copy)] == ["leap-digits", "leap-tiny-test"]
    assert (zoo_copy / "leap-digits" / "model_int8.onnx").exists()
    run.tensors["heads.digits.bias"] = run.tensors["heads.digits.bias"] + torch.ones(10)
    second, refused = publish.publish(run, zoo_copy, [("onnx", "fp32")], say=silent)
    assert refused == []
    assert second.revision != first.revision
    assert [entry.id for entry in leap_zoo.models(zoo_copy)] == ["leap-digits", "leap-tiny-test"]
    assert leap_zoo.load("leap-digits", zoo=zoo_copy).card.revision == second.revision
    assert not (zoo_copy / "leap-digits" / "model_int8.onnx").exists()


def test_publish__that_fails_at_the_very_end_brings_the_old_model_back(
    run: Run, zoo_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish.publish(run, zoo_copy, [("onnx", "fp32")], say=silent)
    before = snapshot(zoo_copy)
    run.tensors["heads.digits.bias"] = run.tensors["heads.digits.bias"] + torch.ones(10)
    listing = publishing._list

    def disk_full(folder: Path, entry: IndexEntry) -> None:
        if folder == zoo_copy:
            raise OSError(28, "No space left on device")
        listing(folder, entry)

    monkeypatch.setattr(publishing, "_list", disk_full)
    with pytest.raises(OSError, match="No space"):
        publish.publish(run, zoo_copy, [("onnx", "fp32")], say=silent)
    assert snapshot(zoo_copy) == before


def test_publish__into_the_folder_of_its_run_is_refused(run: Run, run_folder: Path, tmp_path: Path) -> None:
    """The run was deleted once, as an earlier revision of the model."""
    shutil.copytree(run_folder, tmp_path / "leap-digits")
    before = snapshot(tmp_path)
    with pytest.raises(InvalidArgument, match="not a model's folder"):
        publish.publish(run, tmp_path, [("onnx", "fp32")], say=silent)
    assert snapshot(tmp_path) == before


def test_publish__of_fp32_alone_searches_for_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_file(monkeypatch, lambda value: value[::-1])
    card, refused = publish.publish(run, tmp_path, [("onnx", "fp32")], say=silent)
    assert refused == []
    assert card.search is None
