"""Run a graph with ONNX Runtime, which every installation has, or with OpenVINO or ExecuTorch, optional extras.

All implement one small interface, `Session`. They are imported when the first model is opened, so `import leap_zoo` is
fast.
"""

from __future__ import annotations

import functools
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Artifact
from leap_zoo.device import available_threads, int8_saturates
from leap_zoo.errors import ArtifactRefused, InvalidArgument, MissingExtra, import_extra, short
from leap_zoo.settings import parse_threads, read_settings

if TYPE_CHECKING:
    from leap_zoo.runtime_executorch import ExecutorchSession

Signature = dict[str, tuple[str, tuple[int | None, ...]]]  # name -> dtype, shape; None is a dynamic axis
Provider = str | tuple[str, dict[str, Any]]  # an execution provider of ONNX Runtime, with its options

EXACT_INT8 = ("session.x64quantprecision", "1")
"""A session option of ONNX Runtime: exact int8 on x86 without VNNI.

The default kernel adds two products in 16 bits and cuts off what does not fit, which costs points of top-1. With VNNI,
the default is exact as well, and faster.
"""

_OPENVINO_DTYPES = {"u8": "uint8", "f32": "float32"}


class Session(Protocol):
    """A loaded graph. `run` is thread-safe."""

    runtime: str  # e.g. "onnxruntime 1.32.0", and the execution providers unless it is only the CPU
    threads: int
    inputs: Signature
    outputs: Signature

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """image: uint8 (B, H, W, 3). Returns the named outputs, in that order. Raises ArtifactRefused."""
        ...


def open_session(
    artifact: Artifact,
    files: Sequence[bytes],
    threads: int | None = None,
    *,
    exact: bool = True,
    providers: Sequence[Provider] | None = None,
    session_options: Any = None,
) -> OnnxSession | OpenVinoSession | ExecutorchSession:
    """Open a session from the bytes of an artifact's `files`, in that order; the options are those of `leap_zoo.load`.

    Raises ArtifactRefused if the runtime cannot load the file, MissingExtra if the runtime is not installed,
    InvalidArgument for an option that the file's runtime does not have.
    """
    if session_options is None:
        count = parse_threads(threads) if threads is not None else read_settings().threads
    elif threads is None:
        count = getattr(session_options, "intra_op_num_threads", None)
    else:
        raise InvalidArgument(
            "threads and session_options exclude each other: set session_options.intra_op_num_threads"
        )
    count = count or available_threads()
    if artifact.format != "onnx" and (providers is not None or session_options is not None):
        raise InvalidArgument("providers and session_options are for ONNX Runtime only: choose format='onnx' with them")
    if artifact.format == "openvino":
        return OpenVinoSession(files[0], files[1], artifact, count, exact=exact)
    if not exact:
        raise InvalidArgument("exact=False has an effect on OpenVINO only: choose format='openvino' with it")
    if artifact.format == "executorch":
        from leap_zoo.runtime_executorch import ExecutorchSession

        return ExecutorchSession(files[0], artifact, count)
    return OnnxSession(files[0], artifact, count, providers, session_options)


class OnnxSession:
    """One ONNX file, given as its bytes. Raises ArtifactRefused, InvalidArgument.

    `providers`: the active execution providers, by ONNX Runtime's names, the preferred one first. `metadata`: the
    file's own metadata.
    """

    def __init__(
        self,
        data: bytes,
        artifact: Artifact,
        threads: int,
        providers: Sequence[Provider] | None = None,
        session_options: Any = None,
    ) -> None:
        ort = import_onnxruntime()
        self._artifact = artifact
        self.runtime = f"onnxruntime {ort.__version__}"
        self.threads = threads
        check_version("ONNX Runtime", "onnxruntime", ort.__version__, artifact)
        wanted = _pairs(ort, ["CPUExecutionProvider"] if providers is None else providers)
        options = session_options
        if options is not None and not isinstance(options, ort.SessionOptions):
            raise InvalidArgument(
                f"session_options must be an onnxruntime.SessionOptions, not {type(options).__name__}"
            )
        if options is None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 4
            # Spinning threads take cores from the caller's own work (decoding, an HTTP loop).
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            if int8_saturates():
                options.add_session_config_entry(*EXACT_INT8)
        try:
            # Without enable_fallback=0, ONNX Runtime would print that a provider failed and continue without it.
            self._session = ort.InferenceSession(data, options, providers=wanted, enable_fallback=0)
            self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
            self.inputs = {node.name: _onnx_signature(node) for node in self._session.get_inputs()}
            self.outputs = {node.name: _onnx_signature(node) for node in self._session.get_outputs()}
        except Exception as error:  # the exceptions of ONNX Runtime share no public base class
            raise refused(self.runtime, "load", artifact, error) from error
        self.providers = tuple(self._session.get_providers())
        missing = [name for name, _ in wanted if name not in self.providers]
        if missing:
            raise InvalidArgument(
                f"ONNX Runtime cannot start {', '.join(missing)} here, and would run on {', '.join(self.providers)}: "
                "check the driver and the libraries that it needs, or leave it out of providers"
            )
        if self.providers != ("CPUExecutionProvider",):
            self.runtime += f" ({', '.join(self.providers)})"

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        try:
            results: list[npt.NDArray[np.float32]] = self._session.run(list(outputs), {"image": image})
        except Exception as error:
            raise refused(self.runtime, "run", self._artifact, error) from error
        return results


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with telemetry disabled. Raises MissingExtra.

    Without this variable, ONNX Runtime looks up a telemetry host at import, and writes a database and a device id below
    the home folder.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime") from error
    onnxruntime.disable_telemetry_events()  # in case the caller imported it first
    return onnxruntime


def _pairs(ort: Any, providers: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """Each provider and its options. Raises InvalidArgument if one is malformed or not in this ONNX Runtime."""
    if not isinstance(providers, (list, tuple)) or not providers:
        raise InvalidArgument("providers must be a list, such as ['CUDAExecutionProvider', 'CPUExecutionProvider']")
    available = ort.get_available_providers()
    pairs = [(provider, {}) if isinstance(provider, str) else provider for provider in providers]
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], dict)):
            raise InvalidArgument(f"a provider must be a name, or a tuple of a name and a dict, not {short(pair)}")
        if pair[0] not in available:
            raise InvalidArgument(
                f"this ONNX Runtime has no {short(pair[0])}, only {', '.join(available)}: choose one of them, or "
                "install the build of ONNX Runtime that has it"
            )
    return pairs


def _onnx_signature(node: Any) -> tuple[str, tuple[int | None, ...]]:
    dtype = {"tensor(float)": "float32"}.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
    return dtype, tuple(axis if isinstance(axis, int) else None for axis in node.shape)


class OpenVinoSession:
    """One OpenVINO IR, given as the bytes of its .xml and its .bin, on the CPU. Raises ArtifactRefused, MissingExtra.

    exact: use 32-bit float arithmetic; otherwise OpenVINO uses bfloat16 if the processor has it.
    `metadata`: the file's own metadata.

    The graph is compiled twice, each time on first use: for one photo, and for any batch size. A static shape is a
    sixth faster on a small student.
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
            "ENABLE_CPU_PINNING": "NO",  # otherwise two sessions of one process would be pinned to the same core
        } | ({"INFERENCE_PRECISION_HINT": "f32"} if exact else {})
        try:
            self._core = core()
            blob = np.frombuffer(weights, np.uint8)
            self._model = self._core.read_model(xml, ov.Tensor(blob, ov.Shape([len(blob)])))
            self.metadata = _openvino_metadata(self._model)
            self.inputs = {port.get_any_name(): _openvino_signature(port) for port in self._model.inputs}
            self.outputs = {port.get_any_name(): _openvino_signature(port) for port in self._model.outputs}
        except Exception as error:
            raise refused(self.runtime, "load", artifact, error) from error
        self._weights = blob  # the graph's constants point into this buffer
        self._compiling = threading.Lock()
        self._compiled: dict[bool, _Requests] = {}  # whether for one photo

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        try:
            return self._requests(image).run(np.ascontiguousarray(image), outputs)
        except Exception as error:
            raise refused(self.runtime, "run", self._artifact, error) from error

    def _requests(self, image: npt.NDArray[np.uint8]) -> _Requests:
        one = len(image) == 1
        with self._compiling:
            if one not in self._compiled:
                model = self._model.clone()
                if one:
                    model.reshape({"image": list(image.shape)})
                self._compiled[one] = _Requests(self._core.compile_model(model, "CPU", self._options))
            return self._compiled[one]


class _Requests:
    """A compiled model and its inference requests: one per concurrent caller, reused afterward."""

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
    """The single `openvino.Core` of this process, which is never destroyed. Raises MissingExtra.

    Each Core's CPU plugin installs a new signal stack for the thread and restores the previous one when it ends. If two
    Cores end in the order in which they began, the second restores a stack that was freed with the first, and the next
    signal that Python handles kills the process (OpenVINO 2026.4).
    """
    return _import_openvino().Core()


def _import_openvino() -> Any:
    # Through this module OpenVINO sends telemetry: it looks up a host and writes below the home folder.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_extra("openvino", "openvino")


def _openvino_metadata(model: Any) -> dict[str, str]:
    """The entries of `<rt_info><leap_zoo>`."""
    entries = model.get_rt_info(["leap_zoo"]).value if model.has_rt_info(["leap_zoo"]) else None
    return {key: text for key, text in entries.items() if isinstance(text, str)} if isinstance(entries, dict) else {}


def _openvino_signature(port: Any) -> tuple[str, tuple[int | None, ...]]:
    shape = port.get_partial_shape()
    axes = tuple(None if axis.is_dynamic else axis.get_length() for axis in shape)
    dtype = port.get_element_type().get_type_name()
    return _OPENVINO_DTYPES.get(dtype, dtype), axes


def check_version(name: str, package: str, installed: str, artifact: Artifact) -> None:
    """Raises ArtifactRefused if the runtime is older than the artifact's card requires."""
    if _numbers(installed) < _numbers(artifact.minimum_runtime):
        raise ArtifactRefused(
            f"{artifact.file} needs {name} {artifact.minimum_runtime}, this is {installed}: pip install -U {package}"
        )


def refused(runtime: str, verb: str, artifact: Artifact, error: Exception) -> ArtifactRefused:
    """ArtifactRefused with one line about whatever a runtime raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = lines[0][:200]
    return ArtifactRefused(f"{runtime} cannot {verb} {artifact.file} ({reason}): update it, or choose another file")


def _numbers(text: str) -> tuple[int, ...]:
    """`1.17.0+cpu` -> (1, 17, 0, 0), padded so that 1.17 equals 1.17.0."""
    numbers = [int(part) for part in text.split("+")[0].split("-")[0].split(".") if part.isdigit()]
    return tuple(numbers + [0] * (4 - len(numbers)))
