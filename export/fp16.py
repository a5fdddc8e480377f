"""Half the bytes: weights stored in float16, arithmetic in float32.

A CPU has few half-precision kernels, and runtimes without them would insert a cast at every node. So a cast stands
behind every weight instead: runtimes fold it when they load the file, and what then runs is the fp32 graph.
"""

from __future__ import annotations

import numpy as np
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
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(weight).astype(np.float16)
        if not np.isfinite(values).all():
            raise ValueError(f"{weight.name} has weights beyond the range of float16")
        name, stored = weight.name, f"{weight.name}_fp16"
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
        weight.CopyFrom(numpy_helper.from_array(values, stored))
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half
