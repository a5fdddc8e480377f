"""What runs a graph: a small `Session` interface, and who opens one.

The runtimes themselves are in modules of their own, imported when the first model is opened: `import leap_zoo` stays
fast, and the OpenVINO one may be absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Artifact
from leap_zoo.errors import ArtifactRefused

Signature = dict[str, tuple[str, tuple[int | None, ...]]]  # name -> dtype, shape; None is a free axis


class Session(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    runtime: str  # e.g. "onnxruntime 1.32.0"
    threads: int
    inputs: Signature
    outputs: Signature

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """image: uint8 (B, H, W, 3). Returns the named outputs, in that order. Raises ArtifactRefused."""
        ...


def open_session(artifact: Artifact, files: Sequence[bytes], threads: int, *, exact: bool = True) -> Session:
    """The bytes of an artifact's `files`, in that order, as a session on the CPU.

    exact: float arithmetic in 32 bits throughout, where a runtime would rather use the processor's bfloat16.
    Raises ArtifactRefused when the runtime cannot load it, MissingExtra when the runtime is not installed.
    """
    if artifact.format == "openvino":
        from leap_zoo.runtimes.openvino import OpenVinoSession

        return OpenVinoSession(files[0], files[1], artifact, threads, exact=exact)
    from leap_zoo.runtimes.onnx import OnnxSession

    return OnnxSession(files[0], artifact, threads)


def check_version(name: str, package: str, installed: str, artifact: Artifact) -> None:
    """Raises ArtifactRefused when the runtime is older than the artifact's card asks for."""
    if _numbers(installed) < _numbers(artifact.minimum_runtime):
        raise ArtifactRefused(
            f"{artifact.file} needs {name} {artifact.minimum_runtime}, this is {installed}: pip install -U {package}"
        )


def refused(runtime: str, verb: str, artifact: Artifact, error: Exception) -> ArtifactRefused:
    """Whatever a runtime raised, as one line of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = lines[0][:200]
    return ArtifactRefused(f"{runtime} cannot {verb} {artifact.file} ({reason}): update it, or choose another file")


def _numbers(text: str) -> tuple[int, ...]:
    """`1.17.0+cpu` -> (1, 17, 0, 0), padded so that 1.17 equals 1.17.0."""
    numbers = [int(part) for part in text.split("+")[0].split("-")[0].split(".") if part.isdigit()]
    return tuple(numbers + [0] * (4 - len(numbers)))
