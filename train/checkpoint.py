"""Checkpoints without pickle: tensors in a safetensors file, the rest as JSON in its metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from train.errors import TrainError

KEEP = 2  # the newest ones of a run

# JSON knows neither tensors, nor tuples, nor keys that are numbers: these become one-key objects named by a tag.
_TENSOR, _TUPLE, _PAIRS = "!tensor", "!tuple", "!pairs"


def save(state: dict[str, Any], folder: Path) -> Path:
    """Write `state` as the checkpoint of `state["step"]` steps, atomically; the newest KEEP of the folder stay.

    Raises TypeError for a value that is neither tensor nor JSON.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state['step']:08d}.safetensors"
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"tree": json.dumps(tree)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())  # else a power cut can leave the new name with no content behind it
    os.replace(partial, path)
    for old in [*sorted(folder.glob("step-*.safetensors"))[:-KEEP], *folder.glob("*.partial")]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote. Raises TrainError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})["tree"])
            state = _unpack(tree, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - not a mapping
        if not isinstance(state, dict) or "step" not in state:
            raise ValueError("it holds no step")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainError(f"{path} is not a checkpoint of `python -m train` ({error}); delete it") from error
    return state


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is whole, if any.

    Where none is whole it is the newest one all the same: loading it says what is wrong with it.
    """
    found = sorted(folder.glob("step-*.safetensors"))
    return next((path for path in reversed(found) if _is_whole(path)), found[-1] if found else None)


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:  # compares the length of the file with what its header says
            return "tree" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("!") for key in value):
            return {key: _pack(item, tensors) for key, item in value.items()}
        return {_PAIRS: [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (tag, inner), *_ = value.items()
        if tag == _TENSOR:
            return tensors[inner]
        if tag == _TUPLE:
            return tuple(_unpack(inner, tensors))
        if tag == _PAIRS:
            return {_unpack(key, tensors): _unpack(item, tensors) for key, item in inner}
    return {key: _unpack(item, tensors) for key, item in value.items()}
