"""The typed recipe of a distillation: everything that determines a run. `train.recipe_file` reads it from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from leap_zoo.card import Name, Preprocessing

Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]
Precision = Literal["fp32", "bf16", "fp16"]
Count = Annotated[int, Meta(ge=1)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Student(_Strict, frozen=True, kw_only=True):
    """The student: a size of `train.method.student`, its patch in pixels, and additions to a plain ViT."""

    size: str
    patch: Count = 16
    registers: Annotated[int, Meta(ge=0, le=64)] = 0  # tokens of no patch (arXiv 2309.16588), dropped from the outputs
    layerscale: AboveZero | None = None  # initial scale of each residual branch (arXiv 2103.17239); none by default
    init: str = "random"  # `teacher`: its weights, cut to size (train.method.slicing); or a published student's folder
    kept: Share = 0.0  # of the weights that it began with, in those that it ends with (arXiv 2109.01903)
    # What names the classes of `teacher.head`: the teacher's own classifier, or a copy that learns to read the student.
    classifier: Literal["teacher", "fitted"] = "teacher"
    frozen: bool = False  # only the fitted classifier learns: the student stays what it began as

    def __post_init__(self) -> None:
        if self.kept and self.init == "random":
            raise ValueError("student.kept mixes in the weights of the start: it needs student.init")
        if self.frozen and (self.init == "random" or self.classifier != "fitted"):
            raise ValueError(
                "student.frozen needs student.init and student.classifier=fitted: nothing else would learn"
            )

    @property
    def continues(self) -> Path | None:
        """The folder of the published student that it begins as."""
        return None if self.init in ("random", "teacher") else Path(self.init)


class Supervised(_Strict, frozen=True, kw_only=True):
    """Train the teacher on the recipe's labels first, where there is none to load."""

    epochs: Count
    lr: AboveZero = 1e-3
    batch: Count = 64


class TeacherSettings(_Strict, frozen=True, kw_only=True):
    """A timm ViT: from a local safetensors file, from the hub (`pretrained`), or trained here (`supervised`)."""

    model: str
    checkpoint: str | None = None
    pretrained: bool = False
    supervised: Supervised | None = None
    options: dict[str, Any] = {}  # further arguments of timm.create_model
    pixels: Count | None = None  # side of its images, which the student sees reduced to its own; None: the same side
    head: Name | None = None  # the exported name of its classifier; `imagenet1k` for a 1000-class one
    provenance: str = "unknown"
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if sum((self.checkpoint is not None, self.pretrained, self.supervised is not None)) > 1:
            raise ValueError("give only one of `checkpoint`, `pretrained` and `supervised`")


class MoreData(_Strict, frozen=True, kw_only=True):
    """Further photos to distill on, without labels: a folder or a .tar file."""

    path: str
    weight: AboveZero = 1.0  # how often a photo is seen in an epoch, on average


class Data(_Strict, frozen=True, kw_only=True):
    """Photos: two folders with a folder per class, or the digits that ship with scikit-learn."""

    source: Literal["folders", "digits"] = "folders"
    name: str
    head: Name  # of the probe that is trained on its labels
    train: str | None = None
    val: str | None = None
    weight: AboveZero = 1.0  # of the photos of `train`, as in MoreData
    more: list[MoreData | str] = []  # a string is the path of a set of weight 1
    held_out: str | None = None  # file-name pattern, left out of all training (a test set for the teacher's head)
    holdout: Annotated[int, Meta(ge=2)] | None = None  # one photo in so many is kept aside: figures are of those
    epoch_photos: Count | None = None  # photos in an epoch; None: each set once, times its weight
    views: Count | None = None  # a photo has so many augmented views, of which the teacher's tokens are kept in `store`
    by_host: bool = False  # of several machines, each decodes, stores and learns from its share of every set alone
    probe_photos: Count = 50_000  # the probe and the monitor learn from so many photos of `train` at most
    store: str = "runs/photos"  # folder of decoded photos, which later runs and other processes reuse
    store_side: Count = 160  # whole photos are stored as squares of so many pixels, with their aspect ratio beside them
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if self.source == "digits" and (self.train or self.val):
            raise ValueError("the digits need no folders: leave out `train` and `val`")

    @property
    def further(self) -> list[MoreData]:
        """`more`, each with its weight."""
        return [MoreData(path=item) if isinstance(item, str) else item for item in self.more]


class _Curriculum(_Strict, frozen=True, kw_only=True, tag_field="strategy"):
    similarity: Literal["cka", "cosine"] = "cka"  # of student and target; every strategy logs it
    every: Count = 10  # steps from one decision to the next; on a GPU each decision waits for the steps before it

    @property
    def strategy(self) -> str:
        """The name that recipes choose it by."""
        return str(self.__struct_config__.tag)


class LeapSettings(_Curriculum, frozen=True, kw_only=True, tag="leap"):
    """LEAP as published, with the published settings."""

    every: Count = 1
    threshold: Share = 0.85
    smoothing: Annotated[float, Meta(gt=0, le=1)] = 1.0  # weight of the newest similarity in the average
    max_epochs: Count = 5  # ends of epochs on one block: an epoch that had begun before counts too


class LeapGrowSettings(_Curriculum, frozen=True, kw_only=True, tag="leap-grow"):
    """The student grows with its target: blocks deeper than the target are run in neither of them."""

    last_share: Share = 0.3  # of the steps; the other blocks have equal shares of the rest, or less after a plateau
    start: Count | Literal["calibrated"] = 1  # `calibrated`: the block most similar to the fresh student
    grow: bool = True  # false: the whole student runs from the start, and only its target moves
    fresh: Literal["identity", "random"] = "identity"  # how a block of random weights begins when the student grows
    plateau_steps: Count = 50  # a plateau: the mean similarity of so many steps is not `plateau_rise` above that of
    plateau_rise: Share = 0.002  # as many steps before them


class LinearSettings(_Curriculum, frozen=True, kw_only=True, tag="linear"):
    """A ramp by the step count."""

    last_share: Share = 0.3  # of the steps, for the last block


class FixedSettings(_Curriculum, frozen=True, kw_only=True, tag="fixed"):
    """One block all along, counted from 1."""

    block: Count


class LastSettings(_Curriculum, frozen=True, kw_only=True, tag="last"):
    """The last block all along: ordinary feature distillation."""


class OneToOneSettings(_Curriculum, frozen=True, kw_only=True, tag="one-to-one"):
    """All blocks, with a projection each."""


AnyCurriculum = LeapSettings | LeapGrowSettings | LinearSettings | FixedSettings | LastSettings | OneToOneSettings
CURRICULA = {kind.__struct_config__.tag: kind for kind in get_args(AnyCurriculum)}


class Loss(_Strict, frozen=True, kw_only=True):
    """Mean squared error of projected student patches to the target's, plus `cls_weight` times that of CLS.

    targets: `raw` as published; `standardised` divides each channel of a block by its running deviation first.
    """

    targets: Literal["raw", "standardised"] = "raw"
    cls_weight: NotNegative = 0.05


class Optimizer(_Strict, frozen=True, kw_only=True):
    """A timm optimizer by name, and its learning rate: a linear warm-up, then a cosine to `final_share` of the rate."""

    name: Literal["adamw", "lars"] = "adamw"
    lr: AboveZero = 1e-3
    weight_decay: NotNegative = 0.05
    momentum: Share = 0.9  # of LARS
    warmup_epochs: NotNegative | None = None  # None: a tenth of the epochs, 10 at most, as published
    decay: Literal["cosine", "last-block"] = "cosine"  # since the warm-up, as published; over the last block's steps
    decay_share: Share | None = None  # of the steps, for `last-block`; None: the curriculum's `last_share`
    final_share: Share = 0.001
    clip: NotNegative = 1.0  # gradient norm; 0 does not clip


class Augment(_Strict, frozen=True, kw_only=True):
    """Random resized crop of the whole photo, flip, color jitter and gray per photo, and one mix of the batch."""

    scale: tuple[Share, Share] = (0.14, 1.0)  # share of the photo's area that a crop has
    flip: Share = 0.5
    jitter: Share = 0.8  # how often; `colour`: strengths of brightness, contrast, saturation and hue
    colour: tuple[Share, Share, Share, Annotated[float, Meta(ge=0, le=0.5)]] = (0.4, 0.4, 0.2, 0.1)
    grey: Share = 0.2
    mix: bool = True  # each batch with itself, by one factor


class Recipe(_Strict, frozen=True, kw_only=True):
    """Everything that determines a run; `seed` included."""

    name: Annotated[str, Meta(pattern=r"\A[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")]
    description: str
    student: Student
    teacher: TeacherSettings
    data: Data
    preprocessing: Preprocessing
    curriculum: AnyCurriculum = LeapSettings()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    epochs: Count
    batch: Count = 128
    accumulate: Count = 1  # micro-batches per optimizer step, to save memory
    precision: Precision = "fp32"  # mixed; fp16 needs a GPU, bf16 becomes fp32 on a CPU without it
    checkpoint_minutes: AboveZero = 10.0  # minutes between checkpoints; the last step and a stop have one, too
    seed: Annotated[int, Meta(ge=0)] = 0
    monitor: Annotated[int, Meta(ge=0)] | None = None  # epochs between measurements; 0: never, None: ten in the run

    def __post_init__(self) -> None:
        if self.optimizer.decay == "last-block" and self.decay_share is None:
            strategy = self.curriculum.strategy
            raise ValueError(f"optimizer.decay=last-block needs optimizer.decay_share: `{strategy}` has none")
        if self.teacher.head == self.data.head:
            raise ValueError(f"teacher.head and data.head are both {self.data.head!r}: a model's heads need own names")
        if self.student.classifier == "fitted" and self.teacher.head is None:
            raise ValueError("student.classifier=fitted fits the teacher's classifier: it needs teacher.head")
        if self.data.views and self.augment.mix:
            raise ValueError("data.views needs augment.mix=false: what is mixed with another photo is no fixed view")
        if self.batch % self.accumulate:
            raise ValueError(f"batch={self.batch} cannot be cut into accumulate={self.accumulate} equal pieces")

    @property
    def view_pixels(self) -> int:
        """The side of an augmented view: the larger of what the teacher and the student see of it."""
        return max(self.teacher.pixels or 0, self.preprocessing.size)

    @property
    def decay_share(self) -> float | None:
        """The share of the steps that the learning rate decays over by `last-block`."""
        own = self.optimizer.decay_share
        return getattr(self.curriculum, "last_share", None) if own is None else own
