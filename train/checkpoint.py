"""Lightning checkpoints without pickle: tensors in a safetensors file, the rest as JSON in its metadata; and when."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
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
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut can leave the new name with no content behind it
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


class Saver(Checkpoint):
    """A checkpoint at the end of each epoch, and within an epoch when `minutes` have passed; the newest `keep` stay.

    Only whole optimiser steps are saved, so nothing that is accumulated is lost. As a Lightning `Checkpoint` it runs
    after all other callbacks.
    """

    def __init__(self, folder: Path, minutes: float, keep: int = 2) -> None:
        self.folder, self.seconds, self.keep = folder, 60 * minutes, keep
        self.saved_at = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count from now."""
        self.saved_at = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save when it is time, but not in the middle of a step, nor where the epoch's own checkpoint follows."""
        batches = batch_idx + 1
        if batches % trainer.accumulate_grad_batches or batches == trainer.num_training_batches:
            return
        due = time.monotonic() - self.saved_at >= self.seconds
        if trainer.strategy.reduce_boolean_decision(due, all=False):  # ranks have to save together
            self._save(trainer, f"step-{trainer.global_step:08d}")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the epoch."""
        self._save(trainer, f"epoch-{trainer.current_epoch:03d}")

    def _save(self, trainer: lightning.Trainer, name: str) -> None:
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        if trainer.is_global_zero:
            for old in [*_by_age(self.folder)[: -self.keep], *self.folder.glob("*.partial")]:
                old.unlink(missing_ok=True)
        self.saved_at = time.monotonic()


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run folder that is whole, if any.

    Where none is whole it is the newest one all the same: loading it says what is wrong with it.
    """
    found = _by_age(folder)
    return next((path for path in reversed(found) if _step(path) >= 0), found[-1] if found else None)


def _by_age(folder: Path) -> list[Path]:
    """Oldest first. Two of the same instant, on a coarse clock, by the step that they hold."""
    return sorted(folder.glob("*.ckpt"), key=lambda path: (_modified(path), _step(path)))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # a training that goes on beside us has replaced it
        return 0


def _step(path: Path) -> int:
    """The optimiser steps behind a checkpoint; -1 for a file that is cut short, or none of ours."""
    try:
        with safe_open(path, framework="pt") as file:  # compares the length of the file with what its header says
            return int(json.loads((file.metadata() or {})["tree"])["global_step"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return -1
