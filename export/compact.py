"""Fewer bytes in an ONNX file: weights stored in float16, and numbers instead of names.

Arithmetic stays in float32. CPUs have few half-precision kernels, and runtimes without them would insert a cast at
every node. So each weight is followed by a cast instead: runtimes fold it when they load the file and then run the fp32
graph. In a small int8 file, readable names take more bytes than the biases.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 1024  # elements; for smaller weights, a cast costs more bytes than it saves


def halve(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large float32 weights in float16. Raises ValueError if a weight overflows float16."""
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
    """The values in float16. Raises ValueError, with their name, if one is out of range."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{name} has weights beyond the range of float16")
    return half


def shorten(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its tensors numbered in the order of first use, and its nodes unnamed.

    Inputs and outputs keep their names. The same graph gives the same names.
    """
    short = onnx.ModelProto()
    short.CopyFrom(proto)
    graph = short.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    names = {name: name for name in (*kept, "")}  # "": an optional input that is left out
    for node in graph.node:
        node.name = ""
        for tensors in (node.input, node.output):
            for name in tensors:
                names.setdefault(name, str(len(names)))
            tensors[:] = [names[name] for name in tensors]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    return short
