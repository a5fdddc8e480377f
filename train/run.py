"""The run folder: the output of a training, and the only input of export.

`recipe.yaml` (resolved), `student.safetensors`, `head.safetensors` (projection and classifiers), `model.json` (what
the weights mean), `curriculum.csv`, `metrics.json`, `skipped.csv` (photos that could not be decoded), `checkpoints/`,
`start/` (of a training that continued a published student: its weights and card).
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from leap_zoo.card import Continued, Metric
from leap_zoo.files import write_file
from train import table
from train.data.labels import imagenet_indices
from train.data.splits import Split, Splits, find_splits
from train.data.store import Photos, Shown, in_memory
from train.errors import TrainError
from train.method.curriculum import Move
from train.method.student import make_student
from train.recipe import Recipe
from train.recipe_file import load_recipe, save_recipe

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # of one process that evaluates
Pooling = Literal["cls", "patch_mean"]
RECIPE = "recipe.yaml"
FILES = (RECIPE, "student.safetensors", "head.safetensors", "model.json", "curriculum.csv", "metrics.json")


class HeadInfo(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A classifier in head.safetensors: `heads.<name>.weight`, `.bias`."""

    name: str
    features: Literal["embedding", "teacher_embedding"]
    labels: Annotated[list[str], msgspec.Meta(min_length=1)]


class ModelInfo(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What the weights of a run mean: pooling of the embedding, pixel normalization (0..1, RGB), heads."""

    pooling: Pooling
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    heads: list[HeadInfo]
    default_head: str


class RunReport(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a run measured and cost. A multiply-add is two FLOPs; saved: of a run without early exit."""

    name: str
    strategy: str
    epochs: int
    seed: int
    metrics: list[Metric]
    teacher_metrics: list[Metric]
    teacher_flops: float
    total_flops: float
    teacher_flops_saved: float
    total_flops_saved: float
    last_block_rate_share: float | None = None  # of the learning rate's integral that the last block had
    train_photos: int
    images_seen: int | None = None
    continued: Continued | None = None  # the published student that it began as
    train_seconds: float
    cpu_seconds: float | None = None  # of this process, all threads: what the wall clock says on a busy machine too
    data_wait: float | None = None  # share of train_seconds that steps waited for their photos
    images_per_second: float
    commit: str
    hardware: str
    versions: dict[str, str]


class Run(msgspec.Struct, kw_only=True):
    """A run: the student with its weights, and the tensors of head.safetensors (projection and classifiers)."""

    recipe: Recipe
    info: ModelInfo
    report: RunReport
    moves: list[Move]
    student: VisionTransformer
    tensors: dict[str, Tensor]

    def photos(self) -> Splits:
        """Where its labeled photos are. Raises TrainError when they are not there any more."""
        return find_splits(msgspec.structs.replace(self.recipe.data, more=[]))

    def decode(self, split: Split, what: str) -> Photos:
        """The photos of a split as the deployed model sees them, in memory. Raises TrainError when there are none."""
        return in_memory(split, Shown(self.recipe.preprocessing), what)

    def teacher_classes(self) -> npt.NDArray[np.int64] | None:
        """For each class folder, its index among the outputs of the teacher's ImageNet head; None without one."""
        heads = [head for head in self.info.heads if head.features == "teacher_embedding" and len(head.labels) == 1000]
        return imagenet_indices(self.photos().val.classes) if heads else None


def save_run(folder: Path, run: Run) -> None:
    """Write a finished run (checkpoints are there already)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_recipe(run.recipe, folder / RECIPE)
    for name, tensors in (("student", run.student.state_dict()), ("head", run.tensors)):
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    write_json(folder / "model.json", run.info)
    table.write(folder / "curriculum.csv", run.moves)
    write_json(folder / "metrics.json", run.report)  # last: its presence says that the run is finished


def load_run(folder: Path, overrides: Sequence[str] = ()) -> Run:
    """Read a finished run; `overrides` say where its photos are now, such as data.val=FOLDER. Raises TrainError."""
    for name in FILES:
        if not (folder / name).is_file():
            raise TrainError(f"{folder} is not a finished run: {name} is missing; train it, or resume it with --resume")
    recipe = load_recipe(folder / RECIPE, overrides)
    student = make_student(recipe.student, pixels=recipe.preprocessing.size)
    try:
        student.load_state_dict(load_file(folder / "student.safetensors"))
        tensors = load_file(folder / "head.safetensors")
        info = msgspec.json.decode((folder / "model.json").read_bytes(), type=ModelInfo)
        report = msgspec.json.decode((folder / "metrics.json").read_bytes(), type=RunReport)
        moves = table.read(folder / "curriculum.csv", Move)
    except (SafetensorError, RuntimeError, msgspec.MsgspecError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TrainError(f"{folder} is inconsistent: {reason}; train it again") from error
    return Run(recipe=recipe, info=info, report=report, moves=moves, student=student.eval(), tensors=tensors)


def save_skipped(skipped: Sequence[tuple[str, str]], folder: Path) -> None:
    """Write FOLDER/skipped.csv: photos that could not be decoded, and why; no file where there are none."""
    if skipped:
        table.write(folder / "skipped.csv", [{"photo": photo, "reason": reason} for photo, reason in skipped])


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds the results of a whole training."""
    return (folder / "metrics.json").is_file()


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Write a struct as indented JSON."""
    write_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def commit() -> str:
    """The commit of this checkout, `+` appended when files differ from it; `unknown` outside one."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parent).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware(device: torch.device) -> str:
    """The GPU's name, or threads, architecture and vector instructions of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of installed packages."""
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
