"""OpenVINO IR files on OpenVINO's CPU plugin, an optional extra."""

from __future__ import annotations

import functools
import queue
import threading
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

    Compiled twice, each when it is first needed: for one photo, and for any number of them. Shapes that are known
    beforehand are a sixth faster on a small student.
    """

    def __init__(self, xml: bytes, weights: bytes, artifact: Artifact, threads: int, *, exact: bool = True) -> None:
        ov = _import_openvino()
        self._artifact = artifact
        version = ov.__version__.split("-")[0]
        self.runtime = f"openvino {version}"
        self.threads = threads
        check_version("OpenVINO", "openvino", version, artifact)
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "ENABLE_CPU_PINNING": "NO",  # two sessions of one process would be pinned to the same core
        } | ({"INFERENCE_PRECISION_HINT": "f32"} if exact else {})
        try:
            self._core = core()
            blob = np.frombuffer(weights, np.uint8)
            self._model = self._core.read_model(xml, ov.Tensor(blob, ov.Shape([len(blob)])))
        except Exception as error:
            raise refused(self.runtime, "load", artifact, error) from error
        self._weights = blob  # the graph's constants point into it
        self.inputs = {port.get_any_name(): _signature(port) for port in self._model.inputs}
        self.outputs = {port.get_any_name(): _signature(port) for port in self._model.outputs}
        self._compiling = threading.Lock()
        self._single: _Requests | None = None
        self._many: _Requests | None = None

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        try:
            return self._requests(image).run(np.ascontiguousarray(image), outputs)
        except Exception as error:
            raise refused(self.runtime, "run", self._artifact, error) from error

    def _requests(self, image: npt.NDArray[np.uint8]) -> _Requests:
        with self._compiling:
            if len(image) == 1:
                if self._single is None:
                    model = self._model.clone()
                    model.reshape({"image": list(image.shape)})
                    self._single = _Requests(self._core.compile_model(model, "CPU", self._options))
                return self._single
            if self._many is None:
                self._many = _Requests(self._core.compile_model(self._model, "CPU", self._options))
            return self._many


class _Requests:
    """A compiled model. A request holds the buffers of one call: one per concurrent caller, then used again."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            request.infer({"image": image}, share_inputs=True)
            return [np.array(request.get_tensor(name).data, np.float32) for name in outputs]
        finally:
            self._idle.put(request)


@functools.cache
def core() -> Any:
    """The one `openvino.Core` of this process, which is never destroyed. Raises MissingExtra.

    The CPU plugin of each Core gives the thread another stack for signals, and puts the former one back at its end. Of
    two Cores that end in the order in which they began, the second puts back a stack that was freed with the first: the
    next signal that Python handles then ends the process (OpenVINO 2026.4).
    """
    return _import_openvino().Core()


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
