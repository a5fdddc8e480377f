"""Half the bytes: weights stored in float16, arithmetic in float32.

A CPU has few half-precision kernels, and runtimes without them would insert a cast at every node. So a cast stands
behind every weight instead: runtimes fold it when they load the file, and what then runs is the fp32 graph.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 1024  # elements; below, a cast costs more bytes than it saves


def build(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large float32 weights in float16. Raises ValueError when a weight overflows float16."""
    half = onnx.ModelProto()
    half.CopyFrom(proto)
    casts = []
    for weight in half.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < SMALLEST:
            continue
        values = halved(numpy_helper.to_array(weight), weight.name)
        name, stored = weight.name, f"{weight.name}_fp16"
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
        weight.CopyFrom(numpy_helper.from_array(values, stored))
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half


def halved(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float16]:
    """The values in float16. Raises ValueError, which names them, where one is beyond its range."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{name} has weights beyond the range of float16")
    return half
