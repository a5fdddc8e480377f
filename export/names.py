"""Short names inside a graph: in a small int8 file the names that people read are more bytes than the biases."""

from __future__ import annotations

import onnx


def shorten(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its tensors numbered in the order of their first use, and its nodes unnamed.

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
