"""An ONNX file as an OpenVINO IR: the same graph and weights, in the two files that OpenVINO loads without conversion."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import openvino

IR = 11
MINIMUM_RUNTIME = "2024.0"


def build(proto: onnx.ModelProto, metadata: dict[str, str], *, fp16: bool) -> tuple[bytes, bytes]:
    """The .xml and the .bin of an ONNX graph. The same graph and tools give the same bytes, in any folder.

    metadata: written under `leap_zoo` in the file's `rt_info`. fp16: weights are stored in half precision; arithmetic
    stays what the runtime makes it, which is 32 bits on a CPU unless it is asked otherwise.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.metadata_props[:]  # the reader would copy it into rt_info under a name of its own
    model = openvino.Core().read_model(bare.SerializeToString(deterministic=True))
    for number, operation in enumerate(model.get_ordered_ops()):
        if operation.get_type_name() not in ("Parameter", "Result"):
            # Names that the reader makes up count on through the process: other names in every export.
            operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    for key in sorted(metadata):
        model.set_rt_info(metadata[key], ["leap_zoo", key])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=fp16)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()
