"""A graph's inputs, outputs and metadata, read from an ONNX file or from the .xml of an OpenVINO IR without a runtime.

The bytes may come from anybody: ValueError says what is wrong with them, and work and memory are bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from leap_zoo.card import MAX_DOCUMENT_BYTES
from leap_zoo.lone import protobuf

MAX_XML_BYTES = 8 * 1024 * 1024  # the .xml of a ViT of 12 blocks has about 0.6 MB
MAX_PORTS = 100  # inputs, and outputs, of one graph
MAX_PORT_BYTES = 10_000
MAX_AXES = 32

# TensorProto.DataType, by ONNX's numbers; OpenVINO's names
_ONNX_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_OPENVINO_DTYPES = {"FP32": "float32", "FP16": "float16", "U8": "uint8", "I8": "int8", "I32": "int32", "I64": "int64"}


@dataclass(frozen=True)
class Port:
    """An input or output of the graph. An axis is its length, or a name when it is dynamic ("?" without one)."""

    name: str
    dtype: str
    shape: list[int | str]


@dataclass(frozen=True)
class Graph:
    """What both formats tell. `ir` is the version of the format; only ONNX has an `opset`; `entries` is metadata."""

    ir: int
    opset: int | None
    inputs: list[Port]
    outputs: list[Port]
    entries: dict[str, str]


def read_onnx(data: bytes) -> Graph:
    """An ONNX file (a ModelProto, by its field numbers). Raises ValueError."""
    graph, opset, entries, room = memoryview(b""), None, {}, MAX_DOCUMENT_BYTES
    ir: int | None = None
    for number, value in protobuf.fields(memoryview(data)):
        if number == 1 and isinstance(value, int):
            ir = value
        elif number == 7 and isinstance(value, memoryview):
            graph = value
        elif number == 8 and isinstance(value, memoryview) and len(value) < MAX_PORT_BYTES:
            opset = protobuf.integer(value, 2) if protobuf.text(value, 1) in ("", "ai.onnx") else opset
        elif number == 14 and isinstance(value, memoryview):
            room -= len(value)
            if room < 0:
                raise ValueError(f"its metadata has more than {MAX_DOCUMENT_BYTES} bytes")
            entries[protobuf.text(value, 1)] = protobuf.text(value, 2)
    if ir is None or not len(graph):
        raise ValueError("it has no graph")
    ports: dict[int, list[Port]] = {11: [], 12: []}
    for number, value in protobuf.fields(graph):
        if number in ports and isinstance(value, memoryview):
            _check_port(len(ports[number]), len(value))
            ports[number].append(_onnx_port(value))
    return Graph(ir, opset, ports[11], ports[12], entries)


def _onnx_port(info: memoryview) -> Port:
    """ValueInfoProto: its name, and the type and shape of a tensor."""
    dtype, shape = "?", list[int | str]()
    for kind in protobuf.messages(info, 2):
        for tensor in protobuf.messages(kind, 1):
            number = protobuf.integer(tensor, 1)
            dtype = _ONNX_DTYPES.get(number or 0, f"type {number}")
            for axes in protobuf.messages(tensor, 2):
                shape = [_onnx_axis(axis) for axis, _ in zip(protobuf.messages(axes, 1), range(MAX_AXES), strict=False)]
    return Port(protobuf.text(info, 1), dtype, shape)


def _onnx_axis(axis: memoryview) -> int | str:
    length = protobuf.integer(axis, 1)
    return length if length is not None else protobuf.text(axis, 2) or "?"


def read_openvino(data: bytes) -> Graph:
    """The .xml of an OpenVINO IR. Our entries are in <rt_info><leap_zoo>, as <key value="..."/>. Raises ValueError."""
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"it has more than {MAX_XML_BYTES} bytes")
    # Decoded here, whatever encoding it declares: a document type in another encoding would not be seen.
    document = data.decode("utf-8-sig")
    if "<!DOCTYPE" in document:
        raise ValueError("it has a document type, which no model has")
    try:
        net = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    version = net.get("version", "")
    if net.tag != "net" or not (version.isascii() and version.isdecimal() and len(version) < 10):
        raise ValueError("it has no <net> with a version")
    inputs, outputs = list[Port](), list[Port]()
    for layer in net.iterfind("layers/layer"):
        # A parameter's output, or a result's input; a result carries the name on the layer.
        if layer.get("type") == "Parameter":
            _check_port(len(inputs))
            inputs.append(_openvino_port(layer, layer.find("output/port")))
        elif layer.get("type") == "Result":
            _check_port(len(outputs))
            outputs.append(_openvino_port(layer, layer.find("input/port")))
    entries = {entry.tag: entry.get("value", "") for entry in net.iterfind("rt_info/leap_zoo/*")}
    return Graph(int(version), None, inputs, outputs, entries)


def _openvino_port(layer: ElementTree.Element, port: ElementTree.Element | None) -> Port:
    name: str = layer.get("output_names") or layer.get("name") or ""
    if port is None:
        return Port(name, "?", [])
    dtype = port.get("precision", "?")
    axes = [axis.text or "?" for axis, _ in zip(port.iterfind("dim"), range(MAX_AXES), strict=False)]
    shape = [int(axis) if axis.isascii() and axis.isdecimal() and len(axis) < 19 else "?" for axis in axes]
    return Port(port.get("names") or name, _OPENVINO_DTYPES.get(dtype, dtype), list[int | str](shape))


def _check_port(others: int, size: int = 0) -> None:
    if others >= MAX_PORTS:
        raise ValueError(f"it has more than {MAX_PORTS} inputs or outputs")
    if size > MAX_PORT_BYTES:
        raise ValueError(f"an input or output has {size} bytes")
