"""The typed recipe of a distillation: YAML in, a checked `Recipe` out; an unknown key names the nearest known one."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml
from msgspec import Meta

from leap_zoo.card import Name, Preprocessing
from train.errors import TrainError

RECIPES = Path(__file__).parent / "recipes"
# What a resumed run may change: where its files are, which rivals come after it, how often it is saved.
MAY_CHANGE = ("data.train", "data.val", "teacher.checkpoint", "compare", "checkpoint_minutes")

Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Smoothing = Annotated[float, Meta(gt=0, le=1)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Student(_Strict, frozen=True, kw_only=True):
    """Which student: a size of `train.students`, its patch in pixels, and what it has beyond a plain ViT."""

    size: str
    patch: Count = 16
    registers: Annotated[int, Meta(ge=0, le=64)] = 0  # tokens of no patch (arXiv 2309.16588), dropped from the outputs
    layerscale: AboveZero | None = None  # initial scale of each residual branch (arXiv 2103.17239); none by default
    init: Literal["random", "teacher"] = "random"  # `teacher`: its weights, cut to the student's size (train.slicing)


class Supervised(_Strict, frozen=True, kw_only=True):
    """Train the teacher on the recipe's labels first, where there is none to load."""

    epochs: Count
    lr: AboveZero = 1e-3
    batch: Count = 64


class Teacher(_Strict, frozen=True, kw_only=True):
    """A timm ViT: from a local safetensors file, from the hub (`pretrained`), or trained here (`supervised`)."""

    model: str
    checkpoint: str | None = None
    pretrained: bool = False
    supervised: Supervised | None = None
    options: dict[str, Any] = {}  # further arguments of timm.create_model
    pixels: Count | None = None  # it sees the student's photos enlarged to this side; None: as the student sees them
    head: Name | None = None  # the exported name of its classifier; `imagenet1k` for a 1000-class one
    provenance: str = "unknown"
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if sum((self.checkpoint is not None, self.pretrained, self.supervised is not None)) > 1:
            raise ValueError("give only one of `checkpoint`, `pretrained` and `supervised`")


class Data(_Strict, frozen=True, kw_only=True):
    """Photos: two folders with a folder per class, or the digits that ship with scikit-learn."""

    source: Literal["folders", "digits"] = "folders"
    name: str
    head: Name  # of the probe that is trained on its labels
    train: str | None = None
    val: str | None = None
    more: list[str] = []  # unlabelled photos to distil on as well: folders, .tar files, saved Hugging Face datasets
    held_out: str | None = None  # file-name pattern, left out of all training (a teacher-head test set)
    store_side: Count = 160  # photos are kept in memory as squares of so many pixels
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if self.source == "digits" and (self.train or self.val):
            raise ValueError("the digits need no folders: leave out `train` and `val`")


class _Curriculum(_Strict, frozen=True, kw_only=True, tag_field="strategy"):
    similarity: Literal["cka", "cosine", "recoverability"] = "cka"  # all log it, `leap` and `leap-budget` go by it

    @property
    def strategy(self) -> str:
        """The name that recipes choose it by."""
        return str(self.__struct_config__.tag)


class Leap(_Curriculum, frozen=True, kw_only=True, tag="leap"):
    """LEAP as published, with the published settings."""

    threshold: Share = 0.85
    smoothing: Smoothing = 1.0
    max_epochs: AboveZero = 5.0  # on one block; fractions are allowed


class LeapBudget(_Curriculum, frozen=True, kw_only=True, tag="leap-budget"):
    """LEAP that arrives: the last block has its share, the rest of the steps is shared out among the others."""

    last_share: Share = 0.3
    threshold: Share = 0.85
    smoothing: Smoothing = 0.05
    min_steps: Annotated[int, Meta(ge=0)] = 50  # on a block, before its similarity counts
    retreat: Share | None = None  # of the threshold; below it the target goes back a block. None: it never does


class Linear(_Curriculum, frozen=True, kw_only=True, tag="linear"):
    """A ramp by the step count."""

    last_share: Share = 0.3


class Fixed(_Curriculum, frozen=True, kw_only=True, tag="fixed"):
    """One block all along, counted from 1."""

    block: Count


class Last(_Curriculum, frozen=True, kw_only=True, tag="last"):
    """The last block all along."""


class LastTwo(_Curriculum, frozen=True, kw_only=True, tag="last-two"):
    """The last two blocks, with two projections."""


class OneToOne(_Curriculum, frozen=True, kw_only=True, tag="one-to-one"):
    """All blocks, with a projection each."""


AnyCurriculum = Leap | LeapBudget | Linear | Fixed | Last | LastTwo | OneToOne
CURRICULA = {kind.__struct_config__.tag: kind for kind in get_args(AnyCurriculum)}


class Loss(_Strict, frozen=True, kw_only=True):
    """Distance of projected student tokens and target tokens, plus `cls_weight` times that of the CLS tokens.

    targets: `raw` as published; `standardised` divides each channel of a block by its running deviation first.
    distance: `mse` as published; `cosine-smooth-l1` is 1 - cosine of the tokens plus smooth L1.
    logits_weight: of the divergence (KL) of the teacher's classes through the projected CLS from the teacher's own,
    while its last block is the target; 0 leaves its classifier out.
    """

    targets: Literal["raw", "standardised"] = "raw"
    distance: Literal["mse", "cosine-smooth-l1"] = "mse"
    cls_weight: NotNegative = 0.05
    logits_weight: NotNegative = 0.0


class Optimizer(_Strict, frozen=True, kw_only=True):
    """A timm optimiser by name, linear warm-up and a cosine to `final_share` of the rate."""

    name: Literal["adamw", "lars"] = "adamw"
    lr: AboveZero = 1e-3
    weight_decay: NotNegative = 0.05
    momentum: Share = 0.9  # of LARS
    warmup_epochs: NotNegative = 1.0
    final_share: Share = 0.001
    clip: NotNegative = 1.0  # gradient norm; 0 does not clip


class Augment(_Strict, frozen=True, kw_only=True):
    """Random resized crop, flip, colour jitter, grey, blur, and one mix of the batch with itself.

    `colour` is the strength of brightness, contrast, saturation and hue. On a CPU hue and blur cost as much as the
    student itself; 0 leaves them out.
    """

    scale: tuple[Share, Share] = (0.14, 1.0)
    flip: Share = 0.5
    jitter: Share = 0.8
    colour: tuple[Share, Share, Share, Annotated[float, Meta(ge=0, le=0.5)]] = (0.4, 0.4, 0.2, 0.1)
    grey: Share = 0.2
    blur: Share = 0.5
    mix: bool = True


class Recipe(_Strict, frozen=True, kw_only=True):
    """Everything that determines a run; `seed` included."""

    name: Annotated[str, Meta(pattern=r"\A[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")]
    description: str
    student: Student
    teacher: Teacher
    data: Data
    preprocessing: Preprocessing
    curriculum: AnyCurriculum = Leap()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    epochs: Count
    batch: Count = 128
    accumulate: Count = 1  # a step's batch is computed in so many pieces, for want of memory
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # mixed; fp16 needs a GPU
    compile: bool = False  # student and teacher, by torch.compile
    checkpoint_minutes: AboveZero = 10.0  # between checkpoints within an epoch; each epoch's end has one anyway
    seed: Annotated[int, Meta(ge=0)] = 0
    monitor: Annotated[int, Meta(ge=0)] | None = None  # epochs between measurements; 0: never, None: ten in the run
    compare: list[AnyCurriculum] = []  # rivals, trained at equal epochs for the table

    def __post_init__(self) -> None:
        if self.teacher.head == self.data.head:
            raise ValueError(f"teacher.head and data.head are both {self.data.head!r}: a model's heads need own names")
        if self.batch % self.accumulate:
            raise ValueError(f"batch={self.batch} cannot be cut into accumulate={self.accumulate} equal pieces")


def find_recipe(name: str) -> Path:
    """The file of a recipe given as a path, or by the name of one in `train/recipes`. Raises TrainError."""
    if Path(name).is_file():
        return Path(name)
    known = recipe_files()
    stems = {path.stem: path for path in known.values()}
    if Path(name).stem in stems:
        return stems[Path(name).stem]
    raise TrainError(f"no recipe {name!r}{_nearest(Path(name).stem, list(stems))}; the recipes are {', '.join(known)}")


def recipe_files() -> dict[str, Path]:
    """The recipes that ship: `nano`, ..., then those of folders, such as `paper/in100-vits`."""
    paths = sorted(RECIPES.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(RECIPES).with_suffix("").as_posix(): path for path in paths}


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key=value` overrides (dotted keys, YAML values). Raises TrainError."""
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainError(f"cannot read the recipe {path}: {_one_line(error)}") from error
    if not isinstance(tree, dict):
        raise TrainError(f"{path} is no recipe: it must be a YAML mapping; start from one in train/recipes")
    for override in overrides or []:
        _apply(tree, override)
    strategy = _strategy(tree, path)
    try:
        return msgspec.convert(tree, Recipe)
    except msgspec.ValidationError as error:
        raise TrainError(f"recipe {path.name}: {_explain(str(error), strategy)}") from error


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML."""
    path.write_text(yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False))


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The dotted keys in which two recipes differ, but for those that change nothing in what is learned."""
    return [key for key, value in _flat(one).items() if value != _flat(other).get(key) and key not in MAY_CHANGE]


def _flat(spec: msgspec.Struct, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {prefix + "strategy": spec.strategy} if isinstance(spec, _Curriculum) else {}
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, msgspec.Struct) else {prefix + name: value}
    return flat


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise TrainError(f"{override!r} is no override; write key=value, such as optimizer.lr=5e-4")
    *parents, leaf = key.split(".")
    if key == "curriculum.strategy" and tree.get("curriculum", {}).get("strategy", "leap") != text:
        tree["curriculum"] = {}  # the settings of one strategy mean nothing to another
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if node is None:
            raise TrainError(f"{key!r} leads nowhere in this recipe: {parent!r} holds no further keys")
    if not isinstance(node, dict):
        raise TrainError(f"{key!r} leads nowhere in this recipe")
    try:
        node[leaf] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise TrainError(f"the value of {key!r} is no YAML: {_one_line(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as a string: only floats with a point and a signed exponent are numbers to it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)
_UNKNOWN = re.compile(r"unknown field `(.*?)`(?: - at `\$\.?(.*)`)?")


def _explain(message: str, strategy: str) -> str:
    found = _UNKNOWN.search(message)
    if not found:
        return message
    key, path = found[1], found[2] or ""
    node: Any = Recipe
    for part in filter(None, path.split(".")):
        kind = next((f.type for f in msgspec.structs.fields(node) if f.name == part), node)
        node = get_args(kind)[0] if isinstance(kind, UnionType) else kind  # `Supervised | None`
    if path == "curriculum":
        node = CURRICULA[strategy]
    known = [field.name for field in msgspec.structs.fields(node)]
    where = f" in `{path}`" if path else ""
    return f"unknown key `{key}`{where}{_nearest(key, known)}; known are {', '.join(known)}"


def _strategy(tree: dict[str, Any], path: Path) -> str:
    """The strategy that the recipe names, `leap` where it names none."""
    named = tree.get("curriculum", {})
    name = named.setdefault("strategy", "leap") if isinstance(named, dict) else "leap"
    if name not in CURRICULA:
        raise TrainError(
            f"recipe {path.name}: no strategy {name!r}{_nearest(str(name), list(CURRICULA))}; "
            f"the strategies are {', '.join(CURRICULA)}"
        )
    return str(name)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
