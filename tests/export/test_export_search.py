"""The search for int8: what is tried, what is kept, and what the card says of it. And the ways themselves, as files."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx as onnx_format
import onnxruntime
import pytest
from onnx import numpy_helper
from small_export import DEPTH, unfused

from export import fp16, general, names, onnx, openvino, quantize, search
from export.build import open_built
from export.built import Built
from export.errors import ExportError
from export.golden import draw
from export.graph import DeployedStudent
from export.search import Way
from export.verify import Labelled
from export.ways import Ways
from export.weights import weights_of
from train.run import Run


class Answers:
    """Stands in for a model: its outputs and its speed are known."""

    def __init__(self, embedding: np.ndarray, logits: np.ndarray, *speeds: float) -> None:
        self.speeds = speeds  # milliseconds: of the first measurement, then of the later ones
        self.outputs = {"embedding": embedding, "logits_h": logits}
        self.session = self

    def run(self, pixels: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """One row per photo."""
        return {name: self.outputs[name][: len(pixels)] for name in names if name in self.outputs}


LINEARS = ("qkv", "proj", "fc1", "fc2")
PER_NODE = 60  # bytes: operator, names, attributes, and the names and shapes of what the file holds and of its ports
LABELS = np.arange(40) % 4
LOGITS = np.eye(4, dtype=np.float32)[LABELS]
EMBEDDING = np.repeat(np.eye(4, dtype=np.float32)[LABELS], 2, axis=1) / np.float32(2**0.5)
PHOTOS = Labelled(np.zeros((40, 1, 1, 3), np.uint8), LABELS, "h", "drawn", "train")


def good(*speeds: float) -> Answers:
    return Answers(EMBEDDING, LOGITS, *speeds)


def bad(*speeds: float) -> Answers:
    return Answers(EMBEDDING[::-1].copy(), LOGITS[::-1].copy(), *speeds)


def silent(line: str) -> None:
    """Say nothing."""


def way(name: str, form: str = "onnx", fails: bool = False) -> Way:
    def build() -> Built:
        if fails:
            raise RuntimeError("no such operator\nand a second line")
        return Built((form, "int8"), (name.encode(),), {"name": name})

    return Way(name, form, {"name": name}, build)


def run_search(
    monkeypatch: pytest.MonkeyPatch, ways: list[Way], models: dict[str, Answers], minutes: float = 1
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Winner per format, and outcome by name; fp32 takes 10 ms."""
    measured: list[int] = []

    def timed(reference: Answers, trials: list[search.Trial], pixels: np.ndarray) -> float:
        measured.append(len(trials))
        later = min(len(measured), 2) - 1
        for trial in trials:
            trial.milliseconds = trial.model.speeds[later % len(trial.model.speeds)]
        return reference.speeds[later % len(reference.speeds)]

    monkeypatch.setattr(search, "_measure", timed)
    winners, candidates = search.search(
        ways, lambda built: models[built.contents[0].decode()], good(10), PHOTOS, minutes, silent
    )
    return {form: built.contents[0] for form, built in winners.items()}, {c.name: c.outcome for c in candidates}


def test_search__takes_the_fastest_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [way("a"), way("b"), way("fast but wrong"), way("c", "openvino")]
    models = {"a": good(6), "b": good(4), "fast but wrong": bad(1), "c": good(5)}
    winners, outcomes = run_search(monkeypatch, ways, models)
    assert winners == {"onnx": b"b", "openvino": b"c"}
    assert outcomes["b"] == outcomes["c"] == "chosen"
    assert outcomes["a"].startswith("passed, not chosen")
    assert outcomes["fast but wrong"].startswith("refused: it loses")


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ((4.3,), (4.0,), b"a"),  # as fast: the earlier
        ((4.5,), (4.0,), b"b"),
        ((4.5, 4.0), (4.0, 4.0), b"a"),  # faster once, not when loaded anew
        ((4.5, 4.4), (4.0, 3.9), b"b"),
    ],
)
def test_search__noise_does_not_choose_the_file(
    monkeypatch: pytest.MonkeyPatch, first: tuple[float, ...], second: tuple[float, ...], winner: bytes
) -> None:
    winners, _ = run_search(monkeypatch, [way("a"), way("b")], {"a": good(*first), "b": good(*second)})
    assert winners == {"onnx": winner}


def test_search__goes_on_after_a_way_that_fails_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    winners, outcomes = run_search(monkeypatch, [way("a", fails=True), way("b")], {"b": good(4)})
    assert winners == {"onnx": b"b"}
    assert outcomes["a"] == "refused: it failed: no such operator and a second line"


def test_search__without_time_tries_the_first_of_each_format(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [way("a"), way("b"), way("c", "openvino"), way("d", "openvino")]
    winners, outcomes = run_search(monkeypatch, ways, dict.fromkeys("abcd", good(4)), minutes=0)
    assert winners == {"onnx": b"a", "openvino": b"c"}
    assert set(outcomes) == {"a", "c"}


def test_search__nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    winners, outcomes = run_search(monkeypatch, [way("a")], {"a": bad(1)})
    assert winners == {}
    assert outcomes["a"].startswith("refused")


def test_search__a_way_that_loses_the_classes_of_a_further_head_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"a": good(1), "b": good(9), "fp32": good(10)}
    for name, logits in (("a", LOGITS[::-1].copy()), ("b", LOGITS), ("fp32", LOGITS)):
        models[name].outputs["logits_many"] = logits
    monkeypatch.setattr(search, "_measure", lambda reference, trials, pixels: 10.0)
    winners, candidates = search.search(
        [way("a"), way("b")],
        lambda built: models[built.contents[0].decode()],
        models["fp32"],
        PHOTOS,
        1,
        silent,
        [dataclasses.replace(PHOTOS, head="many")],
    )
    assert winners["onnx"].contents == (b"b",)
    assert candidates[0].outcome.startswith("refused: it loses 100.00% of top-1 of the head many")


def cosine(model: DeployedStudent, proto: onnx_format.ModelProto) -> float:
    """Of the embeddings of drawn photos, to those of the fp32 graph: the least."""
    photos = draw(32)
    fp32 = unfused(onnx.write(weights_of(model)).proto.SerializeToString()).run(["embedding"], {"image": photos})[0]
    return float((unfused(proto.SerializeToString()).run(["embedding"], {"image": photos})[0] * fp32).sum(1).min())


@pytest.mark.parametrize(
    "recipe",
    [
        quantize.Recipe(),
        quantize.Recipe(split_heads=False),
        quantize.Recipe(smooth_quant_alpha=0.0),
        quantize.Recipe(weight_bits=7),
        quantize.Recipe(signed=True),
        quantize.Recipe(float_layers=("blocks.2.fc1", "blocks.3.proj")),
    ],
)
def test_quantize__every_recipe_gives_a_file_that_agrees(model: DeployedStudent, recipe: quantize.Recipe) -> None:
    calibrated = quantize.calibrate(weights_of(model), draw(32), recipe.smooth_quant_alpha)
    proto = onnx.finish(quantize.quantize(calibrated, recipe), {})
    assert cosine(model, proto) > 0.95
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert weights["blocks.0.fc1.weight_int"].dtype == np.int8
    assert np.abs(weights["blocks.0.fc1.weight_int"]).max() == 2 ** (recipe.weight_bits - 1) - 1
    assert weights["blocks.0.fc1.x_zero"].dtype == (np.int8 if recipe.signed else np.uint8)
    for name in recipe.float_layers:
        assert weights[f"{name}.weight"].dtype == np.float32


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_quantize__weights_of_any_size_are_right_within_half_a_step(model: DeployedStudent, size: float) -> None:
    """Scales are stored in float16, which has few digits for what is small."""
    weights = weights_of(model)
    weight, bias = weights.blocks[3].fc2
    small = replace(weights.blocks[3], fc2=(weight * np.float32(size), bias))
    weights = replace(weights, blocks=(*weights.blocks[:3], small, *weights.blocks[4:]))
    proto = quantize.quantize(quantize.calibrate(weights, draw(32), 0.0), quantize.Recipe())
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    scales = stored["blocks.3.fc2.weight_scale_fp16"]
    assert scales.dtype == np.float16
    assert scales.min() > 0
    steps = scales.astype(np.float32)
    assert (np.abs(stored["blocks.3.fc2.weight_int"] * steps - small.fc2[0]) <= 0.501 * steps).all()
    largest = np.abs(small.fc2[0]).max(0) / 127
    assert (steps <= 1.001 * largest + 6e-8).all()  # no coarser than it must be


@pytest.fixture
def int8_file(model: DeployedStudent) -> bytes:
    """The first way to an int8 ONNX file, without metadata."""
    return next(Ways(weights_of(model), draw(32), {}).onnx([])).build().contents[0]


def test_int8_file__has_a_byte_per_weight_and_little_else(model: DeployedStudent, int8_file: bytes) -> None:
    weights = weights_of(model)
    linears = [weights.embed, *(getattr(block, part) for block in weights.blocks for part in LINEARS)]
    space = [weights.space, *(linear for *_, linear in weights.logits)]
    graph = onnx_format.load_from_string(int8_file).graph
    allowed = sum(weight.size + 6 * len(bias) for weight, bias in linears)  # a scale and a bias per channel
    allowed += sum(2 * weight.size + 4 * len(bias) for weight, bias in space)  # small: in float16
    allowed += 4 * (weights.positions.size + weights.prefix.size)
    allowed += 4 * sum(value.size for block in weights.blocks for value in (*block.norm1, *block.norm2))
    overhead = len(int8_file) - allowed
    assert overhead < PER_NODE * len([*graph.node, *graph.input, *graph.output])


def test_int8_file__is_fused_and_folded_by_the_runtime(int8_file: bytes, tmp_path: Path) -> None:
    """What is not stored is computed at load, once: a linear is one node, and no cast is left."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(int8_file, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx_format.load(tmp_path / "optimised.onnx").graph.node)
    integers = [t for t in onnx_format.load_from_string(int8_file).graph.initializer if t.data_type == t.INT8]
    assert kinds["QGemm"] == sum(len(tensor.dims) == 2 for tensor in integers) > 4 * (DEPTH - 1)
    assert kinds["Cast"] == kinds["DequantizeLinear"] == 0


def test_shorten__numbers_what_is_inside_and_changes_no_answer(model: DeployedStudent) -> None:
    full = onnx.write(weights_of(model)).proto
    short = names.shorten(full)
    inside = {tensor.name for tensor in short.graph.initializer}
    assert inside
    assert all(name.isdigit() for name in inside)
    assert [value.name for value in short.graph.output] == [value.name for value in full.graph.output]
    assert short.SerializeToString(deterministic=True) == names.shorten(full).SerializeToString(deterministic=True)
    photos = draw(32)
    ours, theirs = (
        unfused(onnx.finish(each, {}).SerializeToString()).run(None, {"image": photos}) for each in (short, full)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_smoothing__changes_no_answer_of_the_float_graph(model: DeployedStudent) -> None:
    """Factors go in on one side and out on the other."""
    calibrated = quantize.calibrate(weights_of(model), draw(32), 0.75)
    assert np.abs(calibrated.weights.blocks[0].norm1[0] - weights_of(model).blocks[0].norm1[0]).max() > 0.01
    assert cosine(model, onnx.finish(onnx.write(calibrated.weights).proto, {})) > 1 - 1e-5


def test_alone__only_that_layer_is_int8(model: DeployedStudent) -> None:
    calibrated = quantize.calibrate(weights_of(model), draw(32), 0.5)
    proto = quantize.alone(calibrated, "blocks.2.proj")
    integers = {t.name for t in proto.graph.initializer if t.data_type == onnx_format.TensorProto.INT8}
    assert integers == {"blocks.2.proj.weight_int", f"zeros_{model.student.embed_dim}"}


@pytest.mark.parametrize("method", general.METHODS.values(), ids=general.METHODS)
def test_general__quantisers_of_libraries_work_on_the_graph(model: DeployedStudent, method: general.Method) -> None:
    proto = onnx.finish(method(onnx.write(weights_of(model)).proto, draw(32)), {})
    assert cosine(model, proto) > 0.9


def test_layouts__say_the_same(model: DeployedStudent) -> None:
    assert cosine(model, onnx.finish(onnx.write(weights_of(model), "tokens").proto, {})) > 1 - 1e-6
    with pytest.raises(ValueError, match="rows"):
        onnx.write(weights_of(model), "tokens", {"blocks.0.fc1": (0.0, 1.0)})


def test_fp16__halves_the_file_and_keeps_the_answers(model: DeployedStudent) -> None:
    fp32 = onnx.finish(onnx.write(weights_of(model)).proto, {})
    half = onnx.finish(fp16.build(fp32), {})
    assert half.ByteSize() < 0.62 * fp32.ByteSize()  # positions and small tensors stay
    assert cosine(model, half) > 1 - 1e-4
    large = next(t for t in fp32.graph.initializer if t.name == "blocks.0.fc1.weight")
    large.CopyFrom(numpy_helper.from_array(np.full(tuple(large.dims), 1e6, np.float32), large.name))
    with pytest.raises(ValueError, match=r"blocks\.0\.fc1\.weight has weights beyond the range"):
        fp16.build(fp32)


def test_openvino__twice_in_one_process_gives_the_same_bytes(run: Run, model: DeployedStudent) -> None:
    graph = onnx.write(weights_of(model), "tokens").proto
    first, second = (openvino.serialize(openvino.convert(graph), {"model_id": "x"}, fp16=True) for _ in range(2))
    assert first == second
    assert b"\n\t" not in first[0]  # no indentation, which is an eighth of a file
    built = Built(("openvino", "fp16"), first)
    reference = Built(("onnx", "fp32"), (onnx.finish(onnx.write(weights_of(model)).proto, {}).SerializeToString(),))
    for batch in (1, 2, 5):
        photos = np.resize(draw(32), (batch, 32, 32, 3))
        ours, theirs = (open_built(run, model, each).run(photos, model.names) for each in (built, reference))
        for name in model.names:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0.02, atol=0.1, err_msg=name)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda vit: setattr(vit.blocks[0].attn, "q_norm", vit.norm), "q_norm"),
        (lambda vit: setattr(vit, "cls_token", None), "CLS"),
        (lambda vit: setattr(vit.blocks[0].mlp, "act", vit.blocks[0].norm1), "GELU"),
    ],
)
def test_weights__a_student_that_is_no_plain_vit_is_refused(
    model: DeployedStudent, spoil: Callable[[object], None], named: str
) -> None:
    spoil(model.student)
    with pytest.raises(ExportError, match=named):
        weights_of(model)
