"""The peer in PyTorch: built from the published fp32 file alone, and the same student, or not timed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx as onnx_format
import pytest
import torch
from msgspec.structs import replace
from onnx import helper, numpy_helper
from small_export import DEPTH, HEADS, WIDTH

from export import describe, onnx
from export.built import Built
from export.graph import DeployedStudent
from export.weights import weights_of
from leap_zoo.bench import Plan, bench
from leap_zoo.bench.costs import Task, probe
from leap_zoo.bench.peer import TorchSession, check_peer
from leap_zoo.bench.peer_weights import Weights, read_weights
from leap_zoo.card import Architecture, ModelCard
from leap_zoo.errors import ArtifactRefused, InvalidArgument, MissingExtra
from leap_zoo.model import Model
from train.method.student import make_student
from train.run import Run, load_run


@pytest.fixture(
    scope="module", params=["plain, cls, rows", "plain, cls, tokens", "registers and LayerScale, patch mean, rows"]
)
def built(request: pytest.FixtureRequest, run_folder: Path) -> tuple[ModelCard, bytes]:
    """Card and fp32 file of a student with random weights, a head on each kind of features."""
    run = load_run(run_folder)
    recipe, info = run.recipe, replace(run.info, pooling="cls")
    layout = request.param.split()[-1]
    if "registers" in request.param:
        recipe = replace(recipe, student=replace(recipe.student, registers=3, layerscale=0.3))
        info = replace(info, pooling="patch_mean")
    torch.manual_seed(0)
    student = make_student(recipe.student, pixels=recipe.preprocessing.size).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # no bias stays zero, no scale one
    assert {head.features for head in info.heads} == {"embedding", "teacher_embedding"}
    return card_and_file(replace(run, recipe=recipe, info=info, student=student), layout)


def card_and_file(run: Run, layout: str = "rows") -> tuple[ModelCard, bytes]:
    model = DeployedStudent(run).eval()
    data = onnx.finish(onnx.write(weights_of(model), layout).proto, {}).SerializeToString()
    artifact = Built(("onnx", "fp32"), (data,)).artifact()
    return describe.card(run, model, [artifact], ("golden.npz", b"none")), data


def open_file(card: ModelCard, data: bytes) -> Model:
    return Model.open(card, card.artifacts[0], lambda file: data, 1)


def open_peer(card: ModelCard, weights: Weights) -> Model:
    return Model(card, card.artifacts[0], TorchSession(card, card.artifacts[0], weights, 1))


def test_peer__is_the_same_student_on_every_output_and_batch(built: tuple[ModelCard, bytes]) -> None:
    card, data = built
    file, peer = open_file(card, data), open_peer(card, read_weights(data, card))
    assert check_peer(peer, file) < 1e-3
    size = card.preprocessing.size
    for batch in (1, 5):
        photos = np.random.default_rng(batch).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        names = [tensor.name for tensor in card.outputs]
        ours, theirs = peer.run(photos, names), file.run(photos, names)
        for name in names:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-3)
    assert peer.session.runtime == f"torch {torch.__version__.split('+')[0]} eager"


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_peer__compiled_is_the_same_student_too(run: Run) -> None:
    run.student.blocks = run.student.blocks[:1]  # the compiler takes seconds per block
    card, data = card_and_file(run)
    session = TorchSession(card, card.artifacts[0], read_weights(data, card), 1, compiled=True)
    assert session.runtime.endswith("compiled")
    assert check_peer(Model(card, card.artifacts[0], session), open_file(card, data)) < 1e-3


def test_peer__does_not_trust_names(built: tuple[ModelCard, bytes]) -> None:
    card, data = built
    proto = onnx_format.load_model_from_string(data)
    names = {tensor.name: f"w{i}" for i, tensor in enumerate(reversed(proto.graph.initializer))}
    for tensor in proto.graph.initializer:
        tensor.name = names[tensor.name]
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    renamed = proto.SerializeToString()
    assert check_peer(open_peer(card, read_weights(renamed, card)), open_file(card, renamed)) < 1e-3


def test_peer__takes_a_graph_that_scales_attention_itself(built: tuple[ModelCard, bytes]) -> None:
    """As torch's exporter writes it; ours has the scale in the weights of the queries."""
    card, data = built
    proto, width = onnx_format.load_model_from_string(data), card.architecture.width
    scale = (width // card.architecture.heads) ** -0.5
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.dtype == np.float32 and values.shape[-1:] == (3 * width,):
            values[..., :width] /= scale
        elif "q_cls" in tensor.name:
            values /= scale
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "scale_of_attention"))
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Softmax":
            nodes.append(helper.make_node("Mul", [node.input[0], "scale_of_attention"], [node.input[0] + "_scaled"]))
            node.input[0] += "_scaled"
        nodes.append(node)
    copies = [onnx_format.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    scaled = proto.SerializeToString()
    assert check_peer(open_peer(card, read_weights(scaled, card)), open_file(card, scaled)) < 1e-3
    assert check_peer(open_peer(card, read_weights(data, card)), open_file(card, scaled)) < 1e-3


def test_peer__another_model_is_not_timed(built: tuple[ModelCard, bytes]) -> None:
    card, data = built
    weights = read_weights(data, card)
    weights["blocks.3.mlp.fc1.bias"] = weights["blocks.3.mlp.fc1.bias"] + 0.5
    with pytest.raises(ArtifactRefused, match=r"differs from model\.onnx by .* not the same student"):
        check_peer(open_peer(card, weights), open_file(card, data))
    weights["norm.bias"] = np.full_like(weights["norm.bias"], np.nan)
    with pytest.raises(ArtifactRefused, match="differs"):
        check_peer(open_peer(card, weights), open_file(card, data))


def test_peer__a_graph_that_is_no_such_student_is_refused(built: tuple[ModelCard, bytes]) -> None:
    card, data = built
    shape = card.architecture
    for other in (replace(shape, depth=DEPTH - 1), replace(shape, width=96), replace(shape, registers=7)):
        with pytest.raises(InvalidArgument, match="not the plain student that its card describes"):
            read_weights(data, replace(card, architecture=other))
    with pytest.raises(InvalidArgument, match="does not say its architecture"):
        read_weights(data, replace(card, architecture=None))


def test_card__has_the_architecture_of_the_student(run: Run) -> None:
    assert describe.architecture(run) == Architecture(
        patch=run.recipe.student.patch, width=WIDTH, depth=DEPTH, heads=HEADS, mlp_ratio=4.0, pooling=run.info.pooling
    )


def test_bench__against_torch_in_the_same_run(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, notes = bench(["leap-digits"], Plan(seconds=0.05, costs=False, against=("torch",)), published)
    assert notes == []
    formats = [(row.format, row.precision) for row in rows]
    assert formats[-1] == ("torch", "fp32")
    assert {("onnx", "fp32"), ("onnx", "int8")} <= set(formats)
    eager = rows[-1]
    for row in rows:
        assert row.times_eager == pytest.approx(eager.min_ms / row.min_ms, abs=0.001)
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    with pytest.raises(MissingExtra, match="--against needs torch and timm"):
        bench(["leap-digits"], Plan(seconds=0.05, costs=False, against=("torch",)), published)


def test_probe__of_a_peer_counts_torch(published: Path, card: ModelCard, tmp_path: Path) -> None:
    weights = read_weights((published / "leap-digits" / "model.onnx").read_bytes(), card)
    np.savez(tmp_path / "peer.npz", **weights)
    task = Task(model="leap-digits", zoo=str(published), precision="fp32", format="onnx", threads=1, batch=1)
    file, peer = probe(task), probe(replace(task, peer=str(tmp_path / "peer.npz")))
    assert min(file.load_ms, peer.load_ms) > 0
    if file.peak_memory_bytes is not None:
        assert peer.peak_memory_bytes > file.peak_memory_bytes  # torch is in the memory of the peer's process alone
