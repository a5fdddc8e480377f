"""What runs a graph: a small `Session` interface, and ONNX Runtime behind it.

The runtime is imported when the first model is opened: `import leap_zoo` stays fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Artifact
from leap_zoo.errors import ArtifactRefused, MissingExtra


class Session(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    runtime: str  # e.g. "onnxruntime 1.32.0"
    threads: int
    inputs: dict[str, tuple[str, tuple[int | None, ...]]]  # name -> dtype, shape; None is a free axis
    outputs: dict[str, tuple[str, tuple[int | None, ...]]]

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """image: uint8 (B, H, W, 3). Returns the named outputs, in that order. Raises ArtifactRefused."""
        ...


class OnnxSession:
    """One ONNX file, given as its bytes, on the CPU. Raises ArtifactRefused when ONNX Runtime cannot load it."""

    def __init__(self, data: bytes, artifact: Artifact, threads: int) -> None:
        ort = _import_onnxruntime()
        self._file = artifact.file
        self.runtime = f"onnxruntime {ort.__version__}"
        self.threads = threads
        if _version(ort.__version__) < _version(artifact.minimum_runtime):
            raise ArtifactRefused(
                f"{artifact.file} needs ONNX Runtime {artifact.minimum_runtime}, this is {ort.__version__}: "
                "pip install -U onnxruntime"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Spinning threads burn the cores that the caller's own work (decoding, an HTTP loop) needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the exceptions of ONNX Runtime share no public base class
            raise self._refused("load", error) from error
        self.inputs = {node.name: _signature(node) for node in self._session.get_inputs()}
        self.outputs = {node.name: _signature(node) for node in self._session.get_outputs()}

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        try:
            results: list[npt.NDArray[np.float32]] = self._session.run(list(outputs), {"image": image})
        except Exception as error:
            raise self._refused("run", error) from error
        return results

    def _refused(self, verb: str, error: Exception) -> ArtifactRefused:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        return ArtifactRefused(
            f"{self.runtime} cannot {verb} {self._file} ({reason}): update it, or choose another precision"
        )


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _signature(node: Any) -> tuple[str, tuple[int | None, ...]]:
    dtype = {"tensor(float)": "float32"}.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    return dtype, tuple(axis if isinstance(axis, int) else None for axis in node.shape)


def _version(text: str) -> tuple[int, ...]:
    """`1.17.0+cpu` -> (1, 17, 0), padded so that 1.17 equals 1.17.0."""
    numbers = [int(part) for part in text.split("+")[0].split(".") if part.isdigit()]
    return tuple(numbers + [0] * (4 - len(numbers)))
