"""Nodes and initializers of an ONNX graph, one call each; and how a linear is written, in float or in int8."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.weights import CENTRE, F32, Linear, Norm

Range = tuple[float, float]  # of a linear's input
Layout = Literal["rows", "tokens"]
WEIGHT_LIMIT, BIAS_LIMIT = 127, 2**30  # of the integers that stand for them: int8, and int32 with room for rounding
PIXELS: Range = (0.0, 255.0)  # bytes: already quantised, exactly


@dataclass
class Writer:
    """Collects nodes and initializers. A linear whose input range is in `ranges` is written as int8 (QDQ)."""

    ranges: Mapping[str, Range]
    layout: Layout
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)  # linear -> the tensor that it reads

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """An initializer; the same name is the same value."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(value, dtype=dtype), name)
        return name

    def ints(self, *values: int) -> str:
        """A 1-D int64 initializer (a shape, axes, sizes)."""
        return self.constant("ints_" + "_".join(map(str, values)).replace("-", "m"), values, np.int64)

    def op(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        """A node named after its first output, which is returned."""
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), name=outputs[0], **attributes))
        return outputs[0]

    def reshape(self, x: str, output: str, *shape: int) -> str:
        """One axis may be -1."""
        return self.op("Reshape", [x, self.ints(*shape)], output)

    def norm(self, name: str, x: str, norm: Norm, epsilon: float) -> str:
        """LayerNormalization over the last axis."""
        weight, bias = self.constant(f"{name}.weight", norm[0]), self.constant(f"{name}.bias", norm[1])
        return self.op("LayerNormalization", [x, weight, bias], name, axis=-1, epsilon=epsilon)

    def linear(self, name: str, x: str, linear: Linear, *, gemm: bool = False) -> str:
        """x (..., in) -> (..., out). gemm: x has two axes, whatever the layout."""
        self.reads[name] = x
        if name in self.ranges:
            return self._int8(name, x, linear, self.ranges[name])
        weight, bias = self.constant(f"{name}.weight", linear[0]), self.constant(f"{name}.bias", linear[1])
        if self.layout == "rows" or gemm:
            return self.op("Gemm", [x, weight, bias], name)
        return self.op("Add", [self.op("MatMul", [x, weight], f"{name}.product"), bias], name)

    def _int8(self, name: str, x: str, linear: Linear, seen: Range) -> str:
        """Gemm of dequantised inputs: what ONNX Runtime turns into one QGemm (uint8 x int8 -> float)."""
        weight, bias = linear
        if seen == PIXELS:
            weight = weight * CENTRE
        scale, zero = _uint8(seen)
        least = np.abs(bias) / (scale * BIAS_LIMIT)  # a channel of small weights may have a large bias
        scales = _half_up(np.maximum(np.abs(weight).max(0) / WEIGHT_LIMIT, least))  # per output channel
        at = [self.constant(f"{name}.x_scale", scale), self.constant(f"{name}.x_zero", zero, np.uint8)]
        quantised = x if seen == PIXELS else self.op("QuantizeLinear", [x, *at], f"{name}.x_int8")
        a = self.op("DequantizeLinear", [quantised, *at], f"{name}.x_back")
        half = self.constant(f"{name}.weight_scale_fp16", scales, np.float16)
        weight_scale = self.op("Cast", [half], f"{name}.weight_scale", to=TensorProto.FLOAT)
        weight_int = self.constant(f"{name}.weight_int", np.rint(weight / scales), np.int8)
        # Written although they are zero: without them ONNX Runtime 1.32 does not fuse (4x slower).
        zeros = self.constant(f"zeros_{len(scales)}", np.zeros(len(scales)), np.int8)
        w = self.op("DequantizeLinear", [weight_int, weight_scale, zeros], f"{name}.weight_back", axis=1)
        # Not stored: runtimes multiply constants when they load a file.
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
        """Bytes -> floats around zero."""
        floats = self.op("Cast", [x], f"{name}.float", to=TensorProto.FLOAT)
        return self.op("Sub", [floats, self.constant("centre", float(CENTRE))], name)

    def unit(self, name: str, x: str) -> str:
        """L2-normalised rows."""
        total = self.op(
            "ReduceSum", [self.op("Mul", [x, x], f"{name}.squares"), self.ints(1)], f"{name}.sum", keepdims=1
        )
        root = self.op("Sqrt", [self.op("Add", [total, self.constant("tiny", 1e-12)], f"{name}.plus")], f"{name}.norm")
        return self.op("Div", [x, root], name)


def _half_up(scales: F32) -> F32:
    """The next float16 that is no smaller, as float32: stored in two bytes, and no weight is beyond the range."""
    half = np.maximum(scales, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    return np.where(half < scales, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)


def _uint8(seen: Range) -> tuple[float, int]:
    """Range -> scale and zero point; 0 is exact."""
    if seen == PIXELS:
        return 1 / CENTRE, CENTRE  # bytes as -1 to 1: their weights are then not too small for scales in float16
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    scale = max((high - low) / 255, 1e-8)
    return scale, int(np.clip(round(-low / scale), 0, 255))
