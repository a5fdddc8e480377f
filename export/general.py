"""General quantisers on the ONNX graph: what one would take from a library, tried beside our own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from export import openvino

Method = Callable[[onnx.ModelProto, npt.NDArray[np.uint8]], onnx.ModelProto]


def nncf_smooth(proto: onnx.ModelProto, photos: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """NNCF as for OpenVINO, with SmoothQuant; photos uint8 (N, H, W, 3)."""
    source = onnx.ModelProto()
    source.CopyFrom(proto)  # NNCF may edit what it is given
    quantised: onnx.ModelProto = openvino.quantize(source, photos, openvino.Recipe(preset="mixed"))
    return quantised


def ort_dynamic(proto: onnx.ModelProto, _: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """ONNX Runtime's dynamic quantisation: ranges are taken from every photo anew, so nothing is calibrated."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(proto, source)
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        return onnx.load(target)


class _OneByOne(CalibrationDataReader):
    """Photos uint8 (N, H, W, 3), one at a time."""

    def __init__(self, photos: npt.NDArray[np.uint8]) -> None:
        self._photos = iter(photos)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        """The next photo as a batch, None after the last."""
        photo = next(self._photos, None)
        return None if photo is None else {"image": photo[None]}


def ort_static(proto: onnx.ModelProto, photos: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """ONNX Runtime's static quantisation, ranges by the extremes on photos."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(proto, source)
        quantize_static(
            source,
            target,
            _OneByOne(photos),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


METHODS: dict[str, Method] = {
    "NNCF on the ONNX graph, smooth .95": nncf_smooth,
    "ONNX Runtime, dynamic, MatMul and Gemm": ort_dynamic,
    "ONNX Runtime, static, MatMul and Gemm": ort_static,
}
