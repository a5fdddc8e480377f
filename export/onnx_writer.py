"""The deployed student as one ONNX file, written node by node in the shape that runtimes run fast.

Opset 17 and a low IR version, standard operators only, this project's metadata only. Besides the folding in
`export.graph`, it differs from the output of torch's exporter as follows, all exact up to rounding (1e-5):
- Gelu in the order of factors that ONNX Runtime fuses (it does not fuse the exporter's x * (0.5 * (1 + erf)));
- no Shape/Slice/Squeeze arithmetic around attention;
- pooling `cls`: the last block computes queries, projection and MLP for the CLS token only.

Two layouts of the same computation:
- `rows`, for ONNX Runtime: every linear is one Gemm with bias over (batch * tokens, D), in int8 one QGemm;
  patches are bytes times a matrix, so int8 needs no quantization there.
- `tokens`, for OpenVINO: MatMul + Add over (batch, tokens, D), and a convolution, which its CPU plugin fuses best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graph import CENTER, F32, Pair, Weights

OPSET = 17
IR = 8  # the version of ONNX 1.10; ONNX Runtime reads it since 1.10, opset 17 since 1.12
MINIMUM_RUNTIME = "1.12"
Range = tuple[float, float]  # minimum and maximum of a linear's input
Layout = Literal["rows", "tokens"]
WEIGHT_LIMIT, BIAS_LIMIT = 127, 2**30  # of quantized values: int8, and int32 with room for rounding
PIXELS: Range = (0.0, 255.0)  # bytes: already quantized, exactly
SMALLEST = 1024  # elements stored in float16; for smaller weights, a cast costs more bytes than it saves


def write(
    weights: Weights,
    layout: Layout = "rows",
    ranges: Mapping[str, Range] | None = None,
    *,
    half: bool = False,
    split_heads: bool = False,
) -> onnx.ModelProto:
    """Weights -> graph.

    ranges: input ranges of the linears to write as int8 (layout rows only).
    half: store large float weights in float16. Arithmetic stays in float32: CPUs have few half-precision kernels, and
    runtimes without them would insert a cast at every node. So each weight is followed by a cast, which runtimes fold
    when they load the file. Raises ValueError if a weight overflows float16.
    split_heads: attention head by head: a few percent faster on ONNX Runtime, more nodes.
    """
    if ranges and layout != "rows":
        raise ValueError("int8 needs the layout rows")
    dim, pairs = len(weights.pairs["norm"][0]), dict(weights.pairs)
    last = f"blocks.{weights.depth - 1}" if weights.pooling == "cls" else ""  # it computes the CLS token only
    if last:
        weight, bias = pairs[f"{last}.qkv"]
        pairs[f"{last}.q_cls"] = np.ascontiguousarray(weight[:, :dim]), bias[:dim]
        pairs[f"{last}.kv"] = np.ascontiguousarray(weight[:, dim:]), bias[dim:]
    g = Writer(pairs, ranges or {}, layout, half, weights.epsilon)
    tokens = len(weights.prefix) + len(weights.positions)
    x = _embed(g, weights)  # (B, tokens, D)
    if layout == "rows":
        x = g.reshape(x, "stream", -1, dim)
    for name in (f"blocks.{rank}" for rank in range(weights.depth)):
        y = g.norm(f"{name}.norm1", x)
        if split_heads and name != last:
            mixed = _attend_by_head(g, name, y, weights.heads, tokens, dim)
        else:
            mixed = _attend(g, name, y, weights.heads, tokens, dim, only_cls=name == last)
        if name == last:
            x = _first(g, f"{name}.cls", x, tokens, dim)
        x = g.op("Add", [x, g.linear(f"{name}.proj", mixed)], f"{name}.attended")
        y = g.linear(f"{name}.fc1", g.norm(f"{name}.norm2", x))
        x = g.op("Add", [x, g.linear(f"{name}.fc2", g.gelu(f"{name}.gelu", y))], f"{name}.out")
    outputs = _heads(g, weights, g.norm("norm", x), tokens)
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", size]) for n, size in outputs.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", weights.size, weights.size, 3])
    graph = helper.make_graph([*g.casts, *g.nodes], "leap", [image], infos, list(g.initializers.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def halved(values: F32, name: str) -> npt.NDArray[np.float16]:
    """The values in float16. Raises ValueError, with their name, if one is out of range."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{name} has weights beyond the range of float16")
    return half


def shorten(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its tensors numbered in the order of first use, and its nodes unnamed; inputs and outputs are not.

    In a small int8 file, readable names take more bytes than the biases.
    """
    short = onnx.ModelProto()
    short.CopyFrom(proto)
    graph = short.graph
    names = {name: name for name in ("", *(value.name for value in (*graph.input, *graph.output)))}
    for node in graph.node:
        node.name = ""
        for tensors in (node.input, node.output):
            tensors[:] = [names.setdefault(name, str(len(names))) for name in tensors]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    return short


def finish(proto: onnx.ModelProto, metadata: dict[str, str]) -> onnx.ModelProto:
    """Write the metadata, and strip what tools add: docs, and shapes that runtimes infer again."""
    proto.producer_name, proto.producer_version, proto.domain, proto.doc_string = "leap-zoo", "", "", ""
    graph = proto.graph
    graph.name, graph.doc_string = "leap", ""
    del graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    onnx.checker.check_model(proto, full_check=True)
    return proto


def content(proto: onnx.ModelProto, metadata: dict[str, str]) -> bytes:
    """The bytes of the file: the same graph and metadata give the same."""
    data: bytes = finish(proto, metadata).SerializeToString(deterministic=True)
    return data


def _embed(g: Writer, weights: Weights) -> str:
    """image -> tokens (B, P + N, D) with positions."""
    p, side, dim = weights.patch, weights.size // weights.patch, weights.prefix.shape[1]
    if g.layout == "tokens":
        x = g.op("Transpose", ["image"], "channels_first", perm=[0, 3, 1, 2])
        x = g.centred("pixels", x)
        weight, bias = g.pairs["embed"]
        kernel = weight.reshape(p, p, 3, dim).transpose(3, 2, 0, 1)
        inputs = [x, g.constant("embed.weight", kernel), g.constant("embed.bias", bias)]
        x = g.op("Conv", inputs, "embed", kernel_shape=[p, p], strides=[p, p])
        x = g.op("Transpose", [g.reshape(x, "embed_flat", -1, dim, side * side)], "patch_tokens", perm=[0, 2, 1])
    else:
        x = g.reshape("image", "pixel_rows", -1, side, p, side, 3 * p)
        x = g.op("Transpose", [x], "pixel_patches", perm=[0, 1, 3, 2, 4])  # moves runs of 3 * p bytes
        x = g.reshape(x, "patches", -1, 3 * p * p)
        if "embed" not in g.ranges:
            x = g.centred("patches_centred", x)
        x = g.reshape(g.linear("embed", x), "patch_tokens", -1, side * side, dim)
    x = g.op("Add", [x, g.constant("positions", weights.positions[None])], "patch_positions")
    batch = g.op("Shape", ["image"], "batch_size", start=0, end=1)
    shape = g.op("Concat", [batch, g.ints(len(weights.prefix), dim)], "prefix_shape", axis=0)
    prefix = g.op("Expand", [g.constant("prefix", weights.prefix[None]), shape], "prefix_tokens")
    return g.op("Concat", [prefix, x], "tokens", axis=1)


def _attend(g: Writer, name: str, y: str, heads: int, tokens: int, dim: int, *, only_cls: bool) -> str:
    """Attention of all tokens, or of the CLS token alone (its row)."""
    part = "kv" if only_cls else "qkv"
    if only_cls:
        q = g.linear(f"{name}.q_cls", _first(g, f"{name}.norm1_cls", y, tokens, dim))
        g.reshape(q, f"{name}.q", -1, heads, 1, dim // heads)
    x = g.linear(f"{name}.{part}", y)
    x = g.reshape(x, f"{name}.{part}_split", -1, tokens, len(part) * heads, dim // heads)
    x = g.op("Transpose", [x], f"{name}.{part}_heads", perm=[0, 2, 1, 3])
    g.op("Split", [x, g.ints(*[heads] * len(part))], *(f"{name}.{each}" for each in part), axis=1)
    x = _mix(g, name, f"{name}.q", f"{name}.k", f"{name}.v", [0, 1, 3, 2])
    if not only_cls:
        x = g.op("Transpose", [x], f"{name}.joined", perm=[0, 2, 1, 3])
    return _merge(g, name, x, 1 if only_cls else tokens, dim)


def _attend_by_head(g: Writer, name: str, y: str, heads: int, tokens: int, dim: int) -> str:
    x = g.reshape(g.linear(f"{name}.qkv", y), f"{name}.qkv_3d", -1, tokens, 3 * dim)
    parts = [f"{name}.{part}.{head}" for part in "qkv" for head in range(heads)]
    g.op("Split", [x, g.ints(*[dim // heads] * (3 * heads))], *parts, axis=2)
    each = zip(parts[:heads], parts[heads : 2 * heads], parts[2 * heads :], strict=True)
    mixed = [_mix(g, f"{name}.{head}", q, k, v, [0, 2, 1]) for head, (q, k, v) in enumerate(each)]
    return _merge(g, name, g.op("Concat", mixed, f"{name}.joined", axis=2), tokens, dim)


def _mix(g: Writer, name: str, q: str, k: str, v: str, perm: list[int]) -> str:
    scores = g.op("MatMul", [q, g.op("Transpose", [k], f"{name}.k_t", perm=perm)], f"{name}.scores")
    return g.op("MatMul", [g.op("Softmax", [scores], f"{name}.attention", axis=-1), v], f"{name}.mixed")


def _merge(g: Writer, name: str, x: str, tokens: int, dim: int) -> str:
    return g.reshape(x, f"{name}.merged", *((-1, dim) if g.layout == "rows" else (-1, tokens, dim)))


def _first(g: Writer, name: str, x: str, tokens: int, dim: int) -> str:
    """The CLS token: (B, D) in rows, (B, 1, D) in tokens."""
    if g.layout == "rows":
        x = g.reshape(x, f"{name}.all", -1, tokens, dim)
        return g.op("Gather", [x, g.constant("first", 0, np.int64)], name, axis=1)
    return g.op("Slice", [x, g.ints(0), g.ints(1), g.ints(1)], name)


def _heads(g: Writer, weights: Weights, x: str, tokens: int) -> dict[str, int]:
    """The outputs, with their sizes. x: after the last norm; only the CLS token if that is the embedding."""
    count, dim = weights.prefix.shape
    if weights.pooling == "cls":
        cls = embedding = x if g.layout == "rows" else g.reshape(x, "cls", -1, dim)
    else:
        x = g.reshape(x, "features", -1, tokens, dim)
        cls = g.op("Gather", [x, g.constant("first", 0, np.int64)], "cls", axis=1)
        patches = g.op("Slice", [x, g.ints(count), g.ints(tokens), g.ints(1)], "patch_features")
        total = g.op("ReduceSum", [patches, g.ints(1)], "patch_sum", keepdims=0)
        embedding = g.op("Div", [total, g.constant("patch_count", float(tokens - count))], "patch_mean")
    space = g.linear("space", cls, gemm=True)
    outputs = {g.unit("embedding", embedding): dim, g.unit("teacher_embedding", space): len(g.pairs["space"][1])}
    for name, features in weights.reads.items():
        source = embedding if features == "embedding" else space
        outputs[g.linear(name, source, gemm=True)] = len(g.pairs[name][1])
    return outputs


@dataclass
class Writer:
    """Collects nodes and initializers. Linears with an input range in `ranges` are written as int8 (QDQ).

    pairs: weight and bias of linears and norms. half, layout: as in `write`. epsilon: of norms.
    """

    pairs: Mapping[str, Pair]
    ranges: Mapping[str, Range]
    layout: Layout = "rows"
    half: bool = False
    epsilon: float = 1e-6
    casts: list[onnx.NodeProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """An initializer; equal names have equal values."""
        if name not in self.initializers:
            array, stored = np.asarray(value, dtype=dtype), name
            if self.half and dtype == np.float32 and array.size >= SMALLEST:
                array, stored = halved(array, name), f"{name}_fp16"
                cast = helper.make_node("Cast", [stored], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
                self.casts.append(cast)
            self.initializers[name] = numpy_helper.from_array(array, stored)
        return name

    def ints(self, *values: int) -> str:
        """A 1-D int64 initializer (a shape, axes, sizes)."""
        return self.constant("ints_" + "_".join(map(str, values)).replace("-", "m"), values, np.int64)

    def op(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        """Add a node named after its first output; returns that name."""
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), name=outputs[0], **attributes))
        return outputs[0]

    def reshape(self, x: str, output: str, *shape: int) -> str:
        """Reshape; one axis may be -1."""
        return self.op("Reshape", [x, self.ints(*shape)], output)

    def pair(self, name: str) -> list[str]:
        """Weight and bias as initializers."""
        weight, bias = self.pairs[name]
        return [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]

    def norm(self, name: str, x: str) -> str:
        """LayerNormalization over the last axis."""
        return self.op("LayerNormalization", [x, *self.pair(name)], name, axis=-1, epsilon=self.epsilon)

    def linear(self, name: str, x: str, *, gemm: bool = False) -> str:
        """x (..., in) -> (..., out). gemm: x has two axes in any layout."""
        if name in self.ranges:
            return self._int8(name, x, self.ranges[name])
        weight, bias = self.pair(name)
        if self.layout == "rows" or gemm:
            return self.op("Gemm", [x, weight, bias], name)
        return self.op("Add", [self.op("MatMul", [x, weight], f"{name}.product"), bias], name)

    def _int8(self, name: str, x: str, seen: Range) -> str:
        """Gemm of dequantized inputs, which ONNX Runtime fuses into one QGemm (uint8 x int8 -> float)."""
        weight, bias = self.pairs[name]
        if seen == PIXELS:
            weight = weight * CENTER
        scale, zero = _uint8(seen)
        least = np.abs(bias) / (scale * BIAS_LIMIT)  # a channel of small weights may have a large bias
        scales = _half_up(np.maximum(np.abs(weight).max(0) / WEIGHT_LIMIT, least))  # per output channel
        at = [self.constant(f"{name}.x_scale", scale), self.constant(f"{name}.x_zero", zero, np.uint8)]
        quantised = x if seen == PIXELS else self.op("QuantizeLinear", [x, *at], f"{name}.x_int8")
        a = self.op("DequantizeLinear", [quantised, *at], f"{name}.x_back")
        half = self.constant(f"{name}.weight_scale_fp16", scales, np.float16)
        weight_scale = self.op("Cast", [half], f"{name}.weight_scale", to=TensorProto.FLOAT)
        weight_int = self.constant(f"{name}.weight_int", np.rint(weight / scales), np.int8)
        # Zero points are written even if zero: without them, ONNX Runtime 1.32 does not fuse (4x slower). Each linear
        # has its own: with shared ones, its precise mode (see `leap_zoo.runtime`) cannot load the file.
        zeros = self.constant(f"{name}.weight_zeros", np.zeros(len(scales)), np.int8)
        w = self.op("DequantizeLinear", [weight_int, weight_scale, zeros], f"{name}.weight_back", axis=1)
        # Not stored as a product: runtimes multiply constants when they load a file.
        bias_scale = self.op("Mul", [weight_scale, at[0]], f"{name}.bias_scale")
        bias_int = self.constant(f"{name}.bias_int", np.rint(bias.astype(np.float64) / (scales * scale)), np.int32)
        b = self.op("DequantizeLinear", [bias_int, bias_scale], f"{name}.bias_back", axis=0)
        return self.op("Gemm", [a, w, b], name)

    def gelu(self, name: str, x: str) -> str:
        """x * (1 + erf(x / sqrt 2)) * 0.5, in this order."""
        erf = self.op("Erf", [self.op("Div", [x, self.constant("sqrt_2", math.sqrt(2))], f"{name}.div")], f"{name}.erf")
        plus = self.op("Add", [erf, self.constant("one", 1.0)], f"{name}.plus")
        return self.op("Mul", [self.op("Mul", [x, plus], f"{name}.mul"), self.constant("half", 0.5)], name)

    def centred(self, name: str, x: str) -> str:
        """Bytes -> floats centered at zero."""
        floats = self.op("Cast", [x], f"{name}.float", to=TensorProto.FLOAT)
        return self.op("Sub", [floats, self.constant("centre", float(CENTER))], name)

    def unit(self, name: str, x: str) -> str:
        """L2-normalised rows."""
        squares = self.op("Mul", [x, x], f"{name}.squares")
        total = self.op("ReduceSum", [squares, self.ints(1)], f"{name}.sum", keepdims=1)
        root = self.op("Sqrt", [self.op("Add", [total, self.constant("tiny", 1e-12)], f"{name}.plus")], f"{name}.norm")
        return self.op("Div", [x, root], name)


def _half_up(scales: F32) -> F32:
    """Rounded up to a float16, as float32: it takes two bytes, and no weight is out of range."""
    half = np.maximum(scales, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    return np.where(half < scales, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)


def _uint8(seen: Range) -> tuple[float, int]:
    """Range -> scale and zero point; 0 is represented exactly."""
    if seen == PIXELS:
        return 1 / CENTER, CENTER  # bytes as -1 to 1: otherwise their weights are too small for scales in float16
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    scale = max((high - low) / 255, 1e-8)
    return scale, int(np.clip(round(-low / scale), 0, 255))
