"""What runs an ExecuTorch program (.pte) on the CPU: the extra `leap-zoo[executorch]`, which brings torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Artifact
from leap_zoo.errors import import_extra
from leap_zoo.runtime import Signature, check_version, refused

_DTYPES = {0: "uint8", 6: "float32"}  # numbers of torch's scalar types
_TURN = threading.Lock()  # a program has one set of buffers, and the process one pool of threads
_POOLS: list[int] = []  # threads of that pool, once a program was loaded: programs point into it, so it must stay


class ExecutorchSession:
    """One program, given as its bytes. Raises ArtifactRefused, MissingExtra.

    Sessions of a process take turns, on as many threads as the first of them asked for (`threads`). A call with more
    photos than the program has memory for is several.
    `metadata`: what the file says of itself.
    """

    def __init__(self, data: bytes, artifact: Artifact, threads: int) -> None:
        version, runtime, pool = _import_executorch()
        self._artifact = artifact
        self.runtime = f"executorch {version}"
        with _TURN:
            if not _POOLS:
                pool._unsafe_reset_threadpool(threads)
                _POOLS.append(threads)
        self.threads = _POOLS[0]
        check_version("ExecuTorch", "executorch", version, artifact)
        try:
            program = runtime.Runtime.get().load_program(data)
            about = json.loads(program.load_method("leap_zoo").execute([])[0])
            self._names: list[str] = about.pop("outputs")
            self.metadata: dict[str, str] = about
            self._method = program.load_method("forward")
            meta = self._method.metadata
            self._most = int(meta.input_tensor_meta(0).sizes()[0])
            self.inputs: Signature = {"image": _signature(meta.input_tensor_meta(0))}
            self.outputs: Signature = {
                name: _signature(meta.output_tensor_meta(number)) for number, name in enumerate(self._names)
            }
        except Exception as error:  # errors of the runtime have no class of their own
            raise refused(self.runtime, "load", artifact, error) from error
        self._program, self._data = program, data  # the method points into them

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`."""
        parts = [self._run(image[start : start + self._most]) for start in range(0, len(image), self._most)]
        return [np.concatenate([part[name] for part in parts]) for name in outputs]

    def _run(self, image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        import torch

        with _TURN:
            try:
                found = self._method.execute([torch.from_numpy(np.ascontiguousarray(image))])
                return {name: np.array(value, np.float32) for name, value in zip(self._names, found, strict=True)}
            except Exception as error:
                raise refused(self.runtime, "run", self._artifact, error) from error


def _import_executorch() -> tuple[str, Any, Any]:
    """Version, runtime, and the module that sizes its pool of threads."""
    runtime = import_extra("executorch.runtime", "executorch")
    pool = import_extra("executorch.extension.pybindings.portable_lib", "executorch")
    return version("executorch"), runtime, pool


def _signature(meta: Any) -> tuple[str, tuple[int | None, ...]]:
    number = int(meta.dtype())
    return _DTYPES.get(number, f"type {number}"), (None, *(int(axis) for axis in meta.sizes()[1:]))
