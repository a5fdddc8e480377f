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

from export.weights import CENTRE, F32, F64, Linear, Norm

Range = tuple[float, float]  # of a linear's input
Layout = Literal["rows", "tokens"]
PIXELS: Range = (0.0, 255.0)  # bytes: already quantised, exactly


@dataclass
class Writer:
    """Collects nodes and initializers. A linear whose input range is in `ranges` is written as int8 (QDQ)."""

    ranges: Mapping[str, Range]
    layout: Layout
    weight_bits: int
    signed: bool
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
        scale, zero = _int8(seen) if self.signed else _uint8(seen)
        dtype = np.int8 if self.signed else np.uint8
        top = 2 ** (self.weight_bits - 1) - 1
        scales = np.maximum(np.abs(weight).max(0), 1e-8).astype(np.float32) / np.float32(top)  # per output channel
        at = [self.constant(f"{name}.x_scale", scale), self.constant(f"{name}.x_zero", zero, dtype)]
        quantised = x if seen == PIXELS else self.op("QuantizeLinear", [x, *at], f"{name}.x_int8")
        # Zero points are written although they are zero: without them ONNX Runtime 1.32 does not fuse (4x slower).
        a = self.op("DequantizeLinear", [quantised, *at], f"{name}.x_back")
        w = self._back(f"{name}.weight", np.clip(np.rint(weight / scales), -top, top), scales, np.int8, axis=1)
        sums = scales * np.float32(scale)
        b = self._back(f"{name}.bias", np.rint(bias.astype(np.float64) / sums), sums, np.int32, axis=0)
        return self.op("Gemm", [a, w, b], name)

    # Integers, their scales and zero points, and the node that makes floats of them again.
    def _back(self, name: str, values: F32 | F64, scales: F32, dtype: npt.DTypeLike, axis: int) -> str:
        inputs = [
            self.constant(f"{name}_int", values, dtype),
            self.constant(f"{name}_scale", scales),
            self.constant(f"{name}_zero", np.zeros(len(scales)), dtype),
        ]
        return self.op("DequantizeLinear", inputs, f"{name}_back", axis=axis)

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


def _int8(seen: Range) -> tuple[float, int]:
    """Range -> scale and zero point, symmetric."""
    return max(abs(seen[0]), abs(seen[1]), 1e-6) / 127, 0


def _uint8(seen: Range) -> tuple[float, int]:
    """Range -> scale and zero point; 0 is exact."""
    if seen == PIXELS:
        return 1.0, CENTRE
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    scale = max((high - low) / 255, 1e-8)
    return scale, int(np.clip(round(-low / scale), 0, 255))
