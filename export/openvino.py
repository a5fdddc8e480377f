"""The deployed student as an OpenVINO IR: the two files that OpenVINO loads without conversion. int8 by NNCF."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnx
import openvino
from openvino import opset13 as opset

from export.onnx_writer import SMALLEST, halved
from leap_zoo.runtime import core

IR = 11
MINIMUM_RUNTIME = "2024.0"
TOOLS = ("torch", "timm", "onnx", "openvino")
METHOD = "NNCF post-training, transformer, SmoothQuant, preset performance"


def convert(proto: onnx.ModelProto) -> Any:
    """An ONNX graph as an `openvino.Model`. It has no metadata yet: the converter would copy it under its own name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString(deterministic=True))
        # Not Core.read_model: that leaves Gelu in pieces, and NNCF then quantizes inside it (slower, less accurate).
        return openvino.convert_model(path)


def quantize(model: Any, photos: npt.NDArray[np.uint8], alpha: float, kept: Sequence[str]) -> Any:
    """An `openvino.Model` in int8, calibrated on photos uint8 (N, H, W, 3), one at a time.

    alpha: of SmoothQuant, 0 (none) to 1. kept: linears that are computed in float.
    """
    import nncf  # takes seconds to import
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    nncf.set_log_level(logging.ERROR)
    shared = core()
    with patch("openvino.Core", lambda: shared):  # NNCF would create one after the other, which is not safe: see `core`
        return nncf.quantize(
            model,
            nncf.Dataset(photos[:, None], lambda photo: {"image": photo}),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(photos),
            ignored_scope=nncf.IgnoredScope(patterns=[f"^{re.escape(name)}([./].*)?$" for name in kept]),
            model_type=nncf.ModelType.TRANSFORMER,
            target_device=nncf.TargetDevice.CPU,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=alpha or -1.0)  # -1: none
            ),
        )


def halve_floats(model: Any) -> None:
    """Store the float parts of an int8 model in half precision: OpenVINO's own compression skips such models.

    The runtime folds the conversions when it compiles the model.
    """
    constants = [each for each in model.get_ordered_ops() if each.get_type_name() == "Constant"]
    for constant in constants:
        if constant.get_element_type() == openvino.Type.f32 and constant.get_data().size >= SMALLEST:
            half = opset.constant(halved(constant.get_data(), constant.get_friendly_name()))
            constant.output(0).replace(opset.convert(half, "f32").output(0))


def serialize(model: Any, metadata: dict[str, str], *, fp16: bool) -> tuple[bytes, bytes]:
    """The .xml and the .bin. The same graph and tools give the same bytes, in any folder.

    metadata: written under `leap_zoo` in the file's `rt_info`. fp16: store float weights in half precision; the runtime
    chooses the precision of arithmetic, by default 32 bits on a CPU.
    """
    for number, operation in enumerate(model.get_ordered_ops()):
        if operation.get_type_name() not in ("Parameter", "Result"):
            # Tools number their names per process, so they would differ in every export.
            operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    information = model.get_rt_info()
    for key in list(information.keys()):  # of the conversion, with local paths: the card has the settings
        del information[key]
    for key in sorted(metadata):
        model.set_rt_info(metadata[key], ["leap_zoo", key])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=fp16)
        xml = re.sub(rb"\n\t+", b"\n", path.read_bytes())  # an eighth of the file is indentation
        return xml, path.with_suffix(".bin").read_bytes()
