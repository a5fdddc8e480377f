"""Checkpoints without pickle: tensors in a safetensors file, the rest as MessagePack in its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import msgpack
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from leap_zoo.files import atomic_file
from train.errors import TrainError

KEEP = 2  # the newest ones of a run
TENSOR = 1  # the MessagePack extension that stands for a tensor: its name in the file


def save(state: dict[str, Any], folder: Path) -> Path:
    """Write `state` after `state["step"]` steps, atomically; the newest KEEP of the folder stay.

    Tuples come back as lists. Raises TypeError for a value that is neither a tensor nor plain.
    """
    tensors: dict[str, Tensor] = {}

    def named(value: object) -> msgpack.Ext:
        if not isinstance(value, Tensor):
            raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return msgpack.Ext(TENSOR, name.encode())

    rest = msgpack.encode(state, enc_hook=named)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state['step']:08d}.safetensors"
    with atomic_file(path) as file:
        file.write(serialise(tensors, metadata={"rest": rest.hex()}))
    for old in [*sorted(folder.glob("step-*.safetensors"))[:-KEEP], *folder.glob(".*.tmp")]:  # of a killed writer
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote. Raises TrainError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            rest = bytes.fromhex(file.metadata()["rest"])
            state = msgpack.decode(rest, ext_hook=lambda _, name: file.get_tensor(bytes(name).decode()))
        if "step" not in state:
            raise ValueError("it holds no step")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainError(f"{path} is not a checkpoint of `python -m train` ({error}); delete it") from error
    return state


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint; else the newest one, whose loading reports the problem; or None."""
    found = sorted(folder.glob("step-*.safetensors"), reverse=True)
    return next((path for path in found if _is_whole(path)), found[0] if found else None)


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt"):  # compares the length of the file with what its header says
            return True
    except (SafetensorError, OSError):
        return False
