"""ONNX files on ONNX Runtime, the runtime that every installation has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Artifact
from leap_zoo.errors import MissingExtra
from leap_zoo.runtimes import check_version, refused


class OnnxSession:
    """One ONNX file, given as its bytes, on the CPU. Raises ArtifactRefused when ONNX Runtime cannot load it."""

    def __init__(self, data: bytes, artifact: Artifact, threads: int) -> None:
        ort = _import_onnxruntime()
        self._artifact = artifact
        self.runtime = f"onnxruntime {ort.__version__}"
        self.threads = threads
        check_version("ONNX Runtime", "onnxruntime", ort.__version__, artifact)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Spinning threads burn the cores that the caller's own work (decoding, an HTTP loop) needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the exceptions of ONNX Runtime share no public base class
            raise refused(self.runtime, "load", artifact, error) from error
        self.inputs = {node.name: _signature(node) for node in self._session.get_inputs()}
        self.outputs = {node.name: _signature(node) for node in self._session.get_outputs()}

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        try:
            results: list[npt.NDArray[np.float32]] = self._session.run(list(outputs), {"image": image})
        except Exception as error:
            raise refused(self.runtime, "run", self._artifact, error) from error
        return results


def _import_onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, which would look up a host
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _signature(node: Any) -> tuple[str, tuple[int | None, ...]]:
    dtype = {"tensor(float)": "float32"}.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    return dtype, tuple(axis if isinstance(axis, int) else None for axis in node.shape)
