"""Lightning checkpoints without pickle: tensors in a safetensors file, the rest as JSON in its metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from train.errors import TrainError


class SafeCheckpointIO(CheckpointIO):
    """Writes and reads a checkpoint as one safetensors file, atomically. Nothing is unpickled."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`. Raises TypeError for a value that is neither tensor nor JSON."""
        tensors: dict[str, Tensor] = {}
        tree = _pack(checkpoint, tensors)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        save_file(tensors, partial, metadata={"tree": json.dumps(tree)})
        os.replace(partial, target)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote. Raises TrainError for any other file."""
        try:
            with safe_open(path, framework="pt") as file:
                tree = json.loads((file.metadata() or {})["tree"])
                return _unpack(tree, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TrainError(f"{path} is no checkpoint of ours ({error}); resume from another one or anew") from error

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


# JSON knows neither tensors, nor tuples, nor keys that are numbers: these become one-key objects named by a tag.
_TENSOR, _TUPLE, _PAIRS = "!tensor", "!tuple", "!pairs"


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
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint holds tensors and JSON values only, not {type(value).__name__}")


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


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run folder, if any."""
    found = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
