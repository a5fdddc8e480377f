"""The deployed graph as one ONNX file that old runtimes load: opset 17, a low IR version, our metadata only."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout

import onnx
import torch
from onnx import version_converter

from export.graph import DeployedStudent

OPSET = 17
IR = 8  # what ONNX 1.10 wrote; ONNX Runtime reads it from 1.10 on, opset 17 from 1.13 on
MINIMUM_RUNTIME = "1.13"


def build(model: DeployedStudent, metadata: dict[str, str]) -> onnx.ModelProto:
    """Export `model` with a dynamic batch. The same weights and tools give the same bytes, in any folder.

    metadata: written into the file, for whoever finds it alone.
    """
    size = model.student.patch_embed.img_size[0]
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=4096)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(),
            (example,),
            input_names=["image"],
            output_names=model.names,
            dynamic_shapes=({0: batch},),
            opset_version=18,  # the lowest that the exporter builds
            dynamo=True,
            optimize=True,
        )
    proto = version_converter.convert_version(program.model_proto, OPSET)
    return finish(proto, metadata)


def finish(proto: onnx.ModelProto, metadata: dict[str, str]) -> onnx.ModelProto:
    """Strip what tools leave behind (stack traces with the builder's folder, docs), set the IR, write our metadata."""
    proto.ir_version = IR
    proto.producer_name, proto.producer_version = "leap-zoo", ""
    proto.doc_string = ""
    proto.domain = ""
    graph = proto.graph
    graph.name, graph.doc_string = "leap", ""
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]  # inferred shapes; runtimes infer them again
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    onnx.checker.check_model(proto, full_check=True)
    return proto
