"""The rule for int8: what is tried, what stays float, what the card says of it. And the files themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx as onnx_format
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from small_export import DEPTH, unfused

from export import int8, onnx_writer, openvino
from export.card import Built
from export.golden import draw
from export.graph import DeployedStudent, weights_of
from export.onnx_writer import Writer
from export.photos import Labelled
from leap_zoo.errors import InvalidArgument
from train.run import Run


class Answers:
    """Stands in for a model: its outputs are known."""

    def __init__(self, embedding: np.ndarray, logits: np.ndarray) -> None:
        self.outputs = {"embedding": embedding, "logits_h": logits, "logits_many": logits}
        self.session = self

    def run(self, pixels: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        """One row per photo."""
        return {name: self.outputs[name][: len(pixels)] for name in names if name in self.outputs}


LINEARS = ("embed", "qkv", "proj", "fc1", "fc2")
PER_NODE = 60  # bytes: operator, names, attributes, and the names and shapes of what the file holds and of its ports
LABELS = np.arange(40) % 4
LOGITS = np.eye(4, dtype=np.float32)[LABELS]
EMBEDDING = np.repeat(np.eye(4, dtype=np.float32)[LABELS], 2, axis=1) / np.float32(2**0.5)
PHOTOS = Labelled(np.zeros((40, 1, 1, 3), np.uint8), LABELS, "h", "drawn", "train")
GOOD, BAD = (EMBEDDING, LOGITS), (EMBEDDING[::-1].copy(), LOGITS[::-1].copy())
LAYERS = ["worst", "second", "third", "fourth"]


def turned(cosine: float) -> np.ndarray:
    """The embeddings, all at one cosine to the true ones."""
    away = np.tile(np.float32([1, -1]) / np.float32(2**0.5), 4) * (EMBEDDING > 0)
    return (cosine * EMBEDDING + (1 - cosine**2) ** 0.5 * away).astype(np.float32)


def silent(line: str) -> None:
    """Say nothing."""


class Maker:
    """Makes files of known answers: `answers(alpha, kept)`, an exception where the quantiser fails."""

    def __init__(self, answers: Callable[[float, tuple[str, ...]], tuple | Exception], form: str = "onnx") -> None:
        self.answers, self.form, self.asked = answers, form, []

    def __call__(self, alpha: float, kept: tuple[str, ...]) -> Built:
        self.asked.append((alpha, kept))
        if isinstance(self.answers(alpha, kept), Exception):
            raise self.answers(alpha, kept)
        return Built((self.form, "int8"), (repr((alpha, kept)).encode(),), {"alpha": alpha, "kept": list(kept)})

    def open(self, built: Built) -> Answers:
        """What the file answers."""
        return Answers(*self.answers(built.recipe["alpha"], tuple(built.recipe["kept"])))


def run_search(maker: Maker, selections: tuple[Labelled, ...] = (PHOTOS,)) -> tuple[tuple[str, ...] | None, dict]:
    """The layers that stay float, and the outcomes by name."""
    rule = int8.Rule(maker.open, Answers(*GOOD), selections, LAYERS, silent)
    chosen = rule.run(maker.form, maker)
    return chosen and chosen.kept, {trial.record.name: trial.record.outcome for trial in rule.trials}


@pytest.fixture(autouse=True)
def smoothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strengths, whatever the tests of this folder take otherwise."""
    monkeypatch.setattr(int8, "SMOOTHING", (0.0, 0.5))


def test_search__everything_is_int8_where_that_keeps_the_answers() -> None:
    kept, outcomes = run_search(Maker(lambda alpha, kept: GOOD))
    assert kept == ()
    assert outcomes == {"no smoothing": "chosen", "smooth 0.5": "passed; another is closer to fp32"}


def test_search__takes_the_smoothing_that_is_closest_to_fp32() -> None:
    kept, outcomes = run_search(Maker(lambda alpha, kept: (turned(0.999 if alpha else 0.996), LOGITS)))
    assert kept == ()
    assert outcomes["smooth 0.5"] == "chosen"


def test_search__a_file_that_passes_beats_a_closer_one_that_does_not() -> None:
    kept, outcomes = run_search(Maker(lambda alpha, kept: (EMBEDDING, BAD[1]) if alpha else (turned(0.9965), LOGITS)))
    assert kept == ()
    assert outcomes["no smoothing"] == "chosen"


def test_search__leaves_out_the_worst_layers_one_by_one() -> None:
    maker = Maker(lambda alpha, kept: GOOD if len(kept) == 2 else (turned(0.9 + alpha / 20), LOGITS))
    kept, outcomes = run_search(maker)
    assert kept == ("worst", "second")
    assert maker.asked == [(0.0, ()), (0.5, ()), (0.5, ("worst",)), (0.5, ("worst", "second"))]
    assert outcomes["smooth 0.5, 2 layers float"] == "chosen"
    assert outcomes["smooth 0.5, 1 layer float"].startswith("refused: its embeddings have a mean cosine of 0.925")


def test_search__gives_up_where_no_layer_is_left() -> None:
    maker = Maker(lambda alpha, kept: BAD)
    kept, outcomes = run_search(maker)
    assert kept is None
    assert len(maker.asked) == 2 + len(LAYERS)
    assert all(outcome.startswith("refused: it loses") for outcome in outcomes.values())


def test_search__goes_on_after_a_trial_that_fails_and_says_so() -> None:
    failure = RuntimeError("no such operator\nand a second line")
    kept, outcomes = run_search(Maker(lambda alpha, kept: GOOD if alpha else failure))
    assert kept == ()
    assert outcomes == {
        "no smoothing": "refused: it failed: no such operator and a second line",
        "smooth 0.5": "chosen",
    }


def test_search__a_file_that_loses_the_classes_of_a_further_head_is_out() -> None:
    class Forgetful(Maker):
        def open(self, built: Built) -> Answers:
            model = super().open(built)
            if not built.recipe["kept"]:
                model.outputs["logits_many"] = BAD[1]
            return model

    kept, outcomes = run_search(Forgetful(lambda *_: GOOD), (PHOTOS, replace(PHOTOS, head="many")))
    assert kept == ("worst",)
    assert outcomes["no smoothing"].startswith("refused: it loses 100.00% of top-1 of the head many")


def test_rival__is_compared_and_never_chosen() -> None:
    maker = Maker(lambda alpha, kept: GOOD)
    rule = int8.Rule(maker.open, Answers(*GOOD), (PHOTOS,), LAYERS, silent)
    rule.run("onnx", maker)
    rule.attempt("onnx", maker, 0.0, (), int8.RIVAL)
    found = {trial.record.name: trial.record for trial in rule.trials}
    assert found[int8.RIVAL].outcome == "for comparison"
    assert found[int8.RIVAL].relative_ms > 0
    assert found["no smoothing"].outcome == "chosen"


def cosine(model: DeployedStudent, proto: onnx_format.ModelProto) -> float:
    """Of the embeddings of drawn photos, to those of the fp32 graph: the least."""
    photos = draw(32)
    fp32 = unfused(onnx_writer.write(weights_of(model)).SerializeToString()).run(["embedding"], {"image": photos})[0]
    return float((unfused(proto.SerializeToString()).run(["embedding"], {"image": photos})[0] * fp32).sum(1).min())


@pytest.mark.parametrize(("alpha", "kept"), [(0.0, ()), (0.5, ("blocks.2.fc1", "blocks.3.proj"))])
def test_quantize__every_recipe_gives_a_file_that_agrees(
    model: DeployedStudent, alpha: float, kept: tuple[str, ...]
) -> None:
    proto = onnx_writer.finish(int8.quantize(int8.calibrate(weights_of(model), draw(32), alpha), kept), {})
    assert cosine(model, proto) > 0.95
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert weights["blocks.0.fc1.weight_int"].dtype == np.int8
    assert np.abs(weights["blocks.0.fc1.weight_int"]).max() == 127
    assert weights["blocks.0.fc1.x_zero"].dtype == np.uint8
    for name in kept:
        assert weights[f"{name}.weight_fp16"].dtype == np.float16


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_quantize__weights_of_any_size_are_right_within_half_a_step(model: DeployedStudent, size: float) -> None:
    """Scales are stored in float16, which has few digits for what is small."""
    weights = weights_of(model)
    weight, bias = weights.pairs["blocks.3.fc2"]
    small = weight * np.float32(size)
    weights = replace(weights, pairs=weights.pairs | {"blocks.3.fc2": (small, bias)})
    proto = int8.quantize(int8.calibrate(weights, draw(32), 0.0))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    scales = stored["blocks.3.fc2.weight_scale_fp16"]
    assert scales.dtype == np.float16
    assert scales.min() > 0
    steps = scales.astype(np.float32)
    assert (np.abs(stored["blocks.3.fc2.weight_int"] * steps - small) <= 0.501 * steps).all()
    largest = np.abs(small).max(0) / 127
    assert (steps <= 1.001 * largest + 6e-8).all()  # no coarser than it must be


@st.composite
def layers(draw_from: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights (in, out), biases (out,) and the largest input: with dead channels, outliers, and inputs of zero."""
    random = np.random.default_rng(draw_from(st.integers(0, 2**32)))
    size = draw_from(st.tuples(st.integers(1, 40), st.integers(1, 24)))
    weight = random.normal(size=size) * 10.0 ** random.uniform(-6, 1, size[1])
    weight *= random.random(size[1]) > 0.2
    weight[random.random(size) > 0.99] *= 100
    bias = random.normal(size=size[1]) * 10.0 ** draw_from(st.floats(-6, 3))
    return weight.astype(np.float32), bias.astype(np.float32), draw_from(st.sampled_from([0.0, 1e-6, 0.1, 1.0, 1e4]))


@settings(max_examples=60, deadline=None)
@given(layers())
def test_linear__in_int8_is_the_float_one_within_its_steps(drawn: tuple[np.ndarray, np.ndarray, float]) -> None:
    weight, bias, largest = drawn
    x = (np.random.default_rng(1).uniform(-1, 1, (8, len(weight))) * largest).astype(np.float32)
    graph = Writer({"y": (weight, bias)}, {"y": (-largest, largest)})
    graph.linear("y", "x")
    port = [onnx_format.helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in
            (("x", len(weight)), ("y", len(bias)))]  # fmt: skip
    proto = onnx_format.helper.make_model(
        onnx_format.helper.make_graph(graph.nodes, "one", port[:1], port[1:], list(graph.initializers.values())),
        opset_imports=[onnx_format.helper.make_opsetid("", onnx_writer.OPSET)],
        ir_version=onnx_writer.IR,
    )
    (found,) = unfused(proto.SerializeToString()).run(None, {"x": x})
    stored = {name: numpy_helper.to_array(tensor) for name, tensor in graph.initializers.items()}
    steps = stored["y.weight_scale_fp16"].astype(np.float64)
    step = float(stored["y.x_scale"])
    # Half a step of each weight, a step of each input (its zero is rounded, too), half a step of the bias; rounding.
    allowed = (np.abs(x) + step).sum(1)[:, None] * steps / 2 + step * np.abs(weight).sum(0) + step * steps
    allowed = allowed + 1e-4 * (np.abs(x) @ np.abs(weight) + np.abs(bias)) + 1e-6
    assert (np.abs(found - (x @ weight + bias)) <= allowed).all()


def test_linear__a_dead_channel_keeps_its_bias() -> None:
    weight, bias = np.zeros((4, 2), np.float32), np.array([3.0, -0.5], np.float32)
    graph = Writer({"y": (weight, bias)}, {"y": (-0.1, 0.1)})
    graph.linear("y", "x")
    stored = {name: numpy_helper.to_array(tensor) for name, tensor in graph.initializers.items()}
    back = stored["y.bias_int"] * stored["y.weight_scale_fp16"].astype(np.float64) * stored["y.x_scale"]
    np.testing.assert_allclose(back, bias, rtol=1e-6)


@pytest.fixture
def int8_file(model: DeployedStudent) -> bytes:
    """The first int8 ONNX file that is tried, without metadata."""
    return int8._makers(weights_of(model), draw(32), {})["onnx"](0.5, ()).contents[0]


def test_int8_file__has_a_byte_per_weight_and_little_else(model: DeployedStudent, int8_file: bytes) -> None:
    weights = weights_of(model)
    kinds = {name: name.rpartition(".")[2] for name in weights.pairs}
    linears = [pair for name, pair in weights.pairs.items() if kinds[name] in LINEARS]
    space = [weights.pairs[name] for name in ("space", *weights.reads)]
    graph = onnx_format.load_from_string(int8_file).graph
    allowed = sum(weight.size + 7 * len(bias) for weight, bias in linears)  # scale, zero point, bias per channel
    allowed += sum(2 * weight.size + 4 * len(bias) for weight, bias in space)  # small: in float16
    allowed += 4 * (weights.positions.size + weights.prefix.size)
    allowed += 4 * sum(value.size for name, pair in weights.pairs.items() if "norm" in kinds[name] for value in pair)
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


def test_shorten__numbers_tensors_and_keeps_outputs(model: DeployedStudent) -> None:
    full = onnx_writer.write(weights_of(model))
    short = onnx_writer.shorten(full)
    inside = {tensor.name for tensor in short.graph.initializer}
    assert inside
    assert all(name.isdigit() for name in inside)
    assert [value.name for value in short.graph.output] == [value.name for value in full.graph.output]
    assert short.SerializeToString(deterministic=True) == onnx_writer.shorten(full).SerializeToString(
        deterministic=True
    )
    photos = draw(32)
    ours, theirs = (
        unfused(onnx_writer.finish(each, {}).SerializeToString()).run(None, {"image": photos}) for each in (short, full)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_smoothing__changes_no_answer_of_the_float_graph(model: DeployedStudent) -> None:
    """Factors go in on one side and out on the other."""
    calibrated = int8.calibrate(weights_of(model), draw(32), 0.75)
    before, after = (weights.pairs["blocks.0.norm1"][0] for weights in (weights_of(model), calibrated.weights))
    assert np.abs(after - before).max() > 0.01
    assert cosine(model, onnx_writer.finish(onnx_writer.write(calibrated.weights), {})) > 1 - 1e-5


def test_int8__of_one_layer_only_that_layer_is_int8(model: DeployedStudent) -> None:
    calibrated = int8.calibrate(weights_of(model), draw(32), 0.5)
    proto = onnx_writer.write(calibrated.weights, "rows", {"blocks.2.proj": calibrated.ranges["blocks.2.proj"]})
    integers = {t.name for t in proto.graph.initializer if t.data_type == onnx_format.TensorProto.INT8}
    assert integers == {"blocks.2.proj.weight_int", "blocks.2.proj.weight_zeros"}


def test_rival__keeps_the_same_layers_float(model: DeployedStudent) -> None:
    kept = ("blocks.2.fc1", "blocks.3.proj")
    proto = onnx_writer.finish(int8.rival(onnx_writer.write(weights_of(model)), draw(32), kept), {})
    assert cosine(model, proto) > 0.9
    floats = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == tensor.FLOAT}
    assert {f"{layer}.weight" for layer in kept} <= floats
    assert "blocks.0.fc1.weight" not in floats


def test_openvino__leaves_the_float_layers_alone(model: DeployedStudent) -> None:
    graph = openvino.convert(onnx_writer.write(weights_of(model), "tokens"))
    count = {}
    for kept in ((), ("blocks.2.fc1", "blocks.1.proj", "space")):
        quantised = openvino.quantize(graph.clone(), draw(32), 0.75, kept)
        count[len(kept)] = sum(operation.get_type_name() == "FakeQuantize" for operation in quantised.get_ops())
    assert count[3] < count[0]


def test_openvino__stores_what_stays_float_in_half_precision(run: Run, model: DeployedStudent) -> None:
    graph = openvino.convert(onnx_writer.write(weights_of(model), "tokens"))
    quantised = openvino.quantize(graph, draw(32), 0.75, ("blocks.2.fc1", "blocks.2.fc2"))
    plain = openvino.serialize(quantised.clone(), {"model_id": "x"}, fp16=False)
    openvino.halve_floats(quantised)
    halved = openvino.serialize(quantised, {"model_id": "x"}, fp16=False)
    weights = sum(weights_of(model).pairs[f"blocks.2.{name}"][0].size for name in ("fc1", "fc2"))
    assert len(plain[1]) - len(halved[1]) >= 2 * weights
    before, after = (
        Built(("openvino", "int8"), files).open(run, model).run(draw(32), ["embedding"])["embedding"]
        for files in (plain, halved)
    )
    assert (before * after).sum(1).min() > 0.99


def test_layouts__give_the_same_outputs(model: DeployedStudent) -> None:
    assert cosine(model, onnx_writer.finish(onnx_writer.write(weights_of(model), "tokens"), {})) > 1 - 1e-6
    with pytest.raises(ValueError, match="rows"):
        onnx_writer.write(weights_of(model), "tokens", {"blocks.0.fc1": (0.0, 1.0)})


def test_fp16__halves_the_file_and_keeps_the_answers(model: DeployedStudent) -> None:
    fp32 = onnx_writer.finish(onnx_writer.write(weights_of(model)), {})
    half = onnx_writer.finish(onnx_writer.write(weights_of(model), half=True), {})
    assert half.ByteSize() < 0.62 * fp32.ByteSize()  # positions and small tensors stay
    assert cosine(model, half) > 1 - 1e-4
    weights = weights_of(model)
    weight, bias = weights.pairs["blocks.0.fc1"]
    large = replace(weights, pairs=weights.pairs | {"blocks.0.fc1": (weight + np.float32(1e6), bias)})
    with pytest.raises(ValueError, match=r"blocks\.0\.fc1\.weight has weights beyond the range"):
        onnx_writer.write(large, half=True)


def test_openvino__twice_in_one_process_gives_the_same_bytes(run: Run, model: DeployedStudent) -> None:
    graph = onnx_writer.write(weights_of(model), "tokens")
    first, second = (openvino.serialize(openvino.convert(graph), {"model_id": "x"}, fp16=True) for _ in range(2))
    assert first == second
    assert b"\n\t" not in first[0]  # no indentation, which is an eighth of a file
    built = Built(("openvino", "fp16"), first)
    reference = Built(
        ("onnx", "fp32"), (onnx_writer.finish(onnx_writer.write(weights_of(model)), {}).SerializeToString(),)
    )
    for batch in (1, 2, 5):
        photos = np.resize(draw(32), (batch, 32, 32, 3))
        ours, theirs = (each.open(run, model).run(photos, model.names) for each in (built, reference))
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
def test_weights__a_student_that_is_not_a_plain_vit_is_refused(
    model: DeployedStudent, spoil: Callable[[object], None], named: str
) -> None:
    spoil(model.student)
    with pytest.raises(InvalidArgument, match=named):
        weights_of(model)
