"""OpenVINO IR files on OpenVINO's CPU plugin, an optional extra."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Artifact
from leap_zoo.errors import MissingExtra
from leap_zoo.runtimes import check_version, refused

_DTYPES = {"u8": "uint8", "f32": "float32"}


class OpenVinoSession:
    """One OpenVINO IR, given as the bytes of its .xml and its .bin, on the CPU. Raises ArtifactRefused, MissingExtra.

    exact: 32-bit float arithmetic; otherwise OpenVINO uses bfloat16 where the processor has it.
    """

    def __init__(self, xml: bytes, weights: bytes, artifact: Artifact, threads: int, *, exact: bool = False) -> None:
        ov = _import_openvino()
        self._artifact = artifact
        version = ov.__version__.split("-")[0]
        self.runtime = f"openvino {version}"
        self.threads = threads
        check_version("OpenVINO", "openvino", version, artifact)
        options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads)}
        options["ENABLE_CPU_PINNING"] = "NO"  # two sessions of one process would be pinned to the same core
        if exact:
            options["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            core = ov.Core()
            blob = np.frombuffer(weights, np.uint8)
            model = core.read_model(xml, ov.Tensor(blob, ov.Shape([len(blob)])))
            self._compiled = core.compile_model(model, "CPU", options)
        except Exception as error:
            raise refused(self.runtime, "load", artifact, error) from error
        self._weights = blob  # the graph's constants may point into it
        self.inputs = {port.get_any_name(): _signature(port) for port in self._compiled.inputs}
        self.outputs = {port.get_any_name(): _signature(port) for port in self._compiled.outputs}
        # A request holds the buffers of one call: one per concurrent caller, made when first needed, then reused.
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            request.infer({"image": np.ascontiguousarray(image)}, share_inputs=True)
            results = [np.array(request.get_tensor(name).data, np.float32) for name in outputs]
        except Exception as error:
            raise refused(self.runtime, "run", self._artifact, error) from error
        finally:
            self._idle.put(request)
        return results


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra(
            f'this file runs on OpenVINO, which cannot be imported ({error}): pip install "leap-zoo[openvino]"'
        ) from error
    return openvino


def _signature(port: Any) -> tuple[str, tuple[int | None, ...]]:
    shape = port.get_partial_shape()
    axes = tuple(None if axis.is_dynamic else axis.get_length() for axis in shape)
    dtype = port.get_element_type().get_type_name()
    return _DTYPES.get(dtype, dtype), axes
