"""The schema of a published model: `card.json`, and the `index.json` that lists cards.

Strict on purpose: unknown keys are refused, and every file is a plain file name with its size and sha256.
`leap_zoo.documents` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from leap_zoo.errors import nearest

SCHEMA: Final = 1
MAX_FILE_BYTES = 4 * 1024**3  # a file is loaded whole, on a small device
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # a card with a 1000-class head has about 60 kB

# Of a model's folder, beside those that its card lists.
OTHER_FILES = ("card.json", "README.md", "curriculum.svg", "model.sig")

# The figure that decides what answers by default: of 1000 classes on photos of the world that nobody learned from.
WORLD, GENERAL = "nips2017", "top-1 of 1000 through the teacher's head"
WORTH_SHOWING = 0.7  # of the default model
DEAD_HEAD = 0.5  # of its teacher's: a head below that share answers only where it is named

Precision = Literal["fp32", "fp16", "int8"]
Format = Literal["onnx", "openvino"]

# `\Z`, not `$`: `$` also matches before a final newline.
FileName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?\Z", max_length=128)]
ModelId = Annotated[str, Meta(pattern=r"\A[a-z0-9]([a-z0-9._-]*[a-z0-9])?\Z", max_length=64)]
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", max_length=64)]
Version = Annotated[str, Meta(pattern=r"\A[0-9]+(\.[0-9]+)*\Z", max_length=32)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=2000)]
Positive = Annotated[int, Meta(gt=0)]
Share = Annotated[float, Meta(ge=-1, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Licences(_Strict, frozen=True):
    """Four licences, because four parties grant them."""

    code: Text
    weights: Text
    teacher: Text
    data: Text


class Preprocessing(_Strict, frozen=True):
    """How a photo becomes the graph's input; carried out by `leap_zoo.preprocess` only.

    The short side is resized to `short_side` pixels, then the centre `size` x `size` pixels are kept.
    """

    size: Annotated[int, Meta(gt=0, le=2048)]
    short_side: Annotated[int, Meta(gt=0, le=4096)]
    filter: Literal["bicubic", "bilinear"] = "bicubic"
    crop: Literal["center"] = "center"

    def __post_init__(self) -> None:
        if self.size > self.short_side:
            raise ValueError(f"the crop ({self.size}) must not exceed the short side ({self.short_side})")


class Doubt(_Strict, frozen=True):
    """How far a head's answers may be trusted, found on `n` photos of `dataset` that the student did not learn from.

    Scores are the softmax of logits / `temperature`. A photo whose distance (`leap_zoo.doubt.energies` of its logits)
    is above `threshold` is unlike what was learned; so were 5 % of these photos.
    """

    temperature: Annotated[float, Meta(gt=0)]
    threshold: float
    dataset: Text
    n: Positive


class Head(_Strict, frozen=True, omit_defaults=True):
    """A named classification head: graph output `output` (batch, len(labels)), logits in the order of `labels`."""

    name: Name
    output: Name
    labels: Annotated[list[Annotated[str, Meta(min_length=1, max_length=300)]], Meta(min_length=1)]
    doubt: Doubt | None = None


class Tensor(_Strict, frozen=True):
    """One input or output of the graph, e.g. `image`, `uint8`, `["batch", 224, 224, 3]`."""

    name: Name
    dtype: Literal["uint8", "float32"]
    shape: list[int | str]


class EmbeddingDims(_Strict, frozen=True):
    """Lengths of an embedding in each space: D_s and D_t."""

    student: Positive
    teacher: Positive


class Metric(_Strict, frozen=True):
    """One number, measured on the published file: what, on which data, over how many photos, how sure.

    `value` and the 95 % `interval` have the unit of the metric (shares are in 0..1).
    """

    name: Text
    dataset: Text
    split: Text
    n: Positive
    value: float
    interval: tuple[float, float] | None = None
    head: str | None = None


class File(_Strict, frozen=True):
    """A file beside the card, by plain name."""

    file: FileName
    bytes: Annotated[int, Meta(gt=0, le=MAX_FILE_BYTES)]
    sha256: Sha256


class Artifact(File, frozen=True):
    """One published form of a model. ONNX is one self-contained file; an OpenVINO IR keeps `weights` in a second."""

    precision: Precision
    ir: Positive  # version of the format: of ONNX's IR, or of OpenVINO's
    minimum_runtime: Version  # of ONNX Runtime, or of OpenVINO, e.g. "1.17"
    format: Format = "onnx"
    weights: File | None = None
    opset: Positive | None = None  # ONNX only
    tools: dict[str, str] = {}  # tool -> version, of what built the file
    quantisation: dict[str, Any] | None = None  # the recipe; None for floats
    metrics: list[Metric] = []

    def __post_init__(self) -> None:
        if (self.format == "openvino") != (self.weights is not None):
            raise ValueError(f"`weights` of {self.file}: an OpenVINO IR has them in a second file, an ONNX file inside")
        if (self.format == "onnx") != (self.opset is not None):
            raise ValueError(f"`opset` of {self.file}: an ONNX file has one, an OpenVINO IR does not")

    @property
    def files(self) -> list[File]:
        """Every file that running this artifact needs, itself first."""
        return [self] if self.weights is None else [self, self.weights]

    @property
    def total_bytes(self) -> int:
        """Size of all its files."""
        return sum(file.bytes for file in self.files)


class Latency(_Strict, frozen=True):
    """Milliseconds per call of one artifact on one device. Rows without their device and ISA mean nothing."""

    file: FileName
    device: Text
    isa: list[str]
    runtime: Text
    threads: Positive
    batch: Positive
    n: Positive
    min_ms: NotNegative
    median_ms: NotNegative
    p95_ms: NotNegative
    peak_memory_bytes: Positive | None = None


class CurriculumStep(_Strict, frozen=True):
    """At `step`, `block` (1-based) became the target; why, and at which similarity to the one before."""

    step: Annotated[int, Meta(ge=0)]
    block: Positive
    similarity: float | None
    reason: Text


class Teacher(_Strict, frozen=True, omit_defaults=True):
    """Who taught: the model's name, and where its weights came from.

    `pixels`: it saw the photos enlarged to this side; None: as the student sees them.
    `metrics`: what the teacher itself reaches, measured as the artifacts were; by the photos it was given, `224 px`.
    """

    name: Text
    provenance: Text
    pixels: Positive | None = None
    metrics: dict[Text, list[Metric]] = {}


class Training(_Strict, frozen=True):
    """How the student came to be. `teacher_flops_saved` is a share (0..1) of running the whole teacher all along."""

    recipe: Text
    seed: int
    commit: str
    epochs: NotNegative
    strategy: Text
    teacher: Teacher
    teacher_flops: NotNegative
    total_flops: NotNegative
    teacher_flops_saved: Share
    curriculum: list[CurriculumStep] = []


class Golden(File, frozen=True):
    """Photos with the outputs they gave where the model was published (`leap_zoo.verify` reads and writes the file).

    `tolerance` is precision -> instruction set -> largest absolute difference, on L2-normalised embeddings and on
    softmax scores. Every precision has a `default`; `vnni` (x86) and `dotprod` (ARM) apply where the CPU has them.
    """

    tolerance: dict[Precision, dict[str, Annotated[float, Meta(gt=0, le=1)]]]

    def __post_init__(self) -> None:
        for precision, by_isa in self.tolerance.items():
            if "default" not in by_isa:
                raise ValueError(f"tolerance of {precision} has no `default`")


class Candidate(_Strict, frozen=True):
    """One way to quantise that was tried, measured against fp32 on photos that no reported figure is from.

    `cosine_mean` and `cosine_min` are of the embeddings; `relative_ms` is its fastest call over that of the fp32 ONNX
    file on ONNX Runtime, measured in turns, batch 1 (below 1: faster). What could not be built has no figures.
    `outcome`: chosen, or why not.
    """

    name: Text
    format: Format
    precision: Precision
    recipe: dict[str, Any]
    top1_drop: Share | None
    agreement: Share | None
    cosine_mean: Share | None
    cosine_min: Share | None
    relative_ms: NotNegative | None
    outcome: Text


class Sensitivity(_Strict, frozen=True):
    """What quantising one layer alone does: mean cosine of its embeddings to those of fp32."""

    layer: Text
    cosine_mean: Share


class Search(_Strict, frozen=True):
    """How the quantised artifacts were chosen: on which photos, where, and everything that was tried."""

    dataset: Text
    split: Text
    n: Positive
    calibration_photos: Positive
    device: Text
    isa: list[str]
    threads: Positive
    minutes: NotNegative
    candidates: list[Candidate]
    sensitivity: list[Sensitivity] = []


class Architecture(_Strict, frozen=True):
    """The student in timm's terms: `VisionTransformer(patch_size, embed_dim, depth, num_heads, mlp_ratio, ...)`."""

    patch: Positive
    width: Positive
    depth: Positive
    heads: Positive
    mlp_ratio: NotNegative
    registers: Annotated[int, Meta(ge=0)] = 0
    layer_scale: bool = False
    pooling: Literal["cls", "patch_mean"] = "cls"


class ModelCard(_Strict, frozen=True):
    """Everything published about one model. `id` is also the name of its folder in a zoo."""

    id: ModelId
    revision: Name
    description: Text
    parameters: Positive
    licences: Licences
    preprocessing: Preprocessing
    heads: Annotated[list[Head], Meta(min_length=1)]
    default_head: Name
    inputs: Annotated[list[Tensor], Meta(min_length=1)]
    outputs: Annotated[list[Tensor], Meta(min_length=1)]
    embedding_dims: EmbeddingDims
    artifacts: Annotated[list[Artifact], Meta(min_length=1)]
    golden: Golden
    family: Literal["leap"] = "leap"
    schema: Literal[1] = SCHEMA
    architecture: Architecture | None = None
    search: Search | None = None
    latency: list[Latency] = []
    training: Training | None = None
    timm: list[File] = []  # what timm's `local-dir:` and `hf-hub:` read: config.json and model.safetensors

    def __post_init__(self) -> None:
        heads = [head.name for head in self.heads]
        _unique("heads", heads)
        _unique("files", [*(file.file for file in self.files), *OTHER_FILES])
        _unique("artifacts", [f"{artifact.format} {artifact.precision}" for artifact in self.artifacts])
        if self.default_head not in heads:
            raise ValueError(
                f"default_head {self.default_head!r} is not one of the heads{nearest(self.default_head, heads)}"
            )
        outputs = [tensor.name for tensor in self.outputs]
        for output in ["embedding", "teacher_embedding", *(head.output for head in self.heads)]:
            if output not in outputs:
                raise ValueError(f"output {output!r} is needed but not among `outputs`{nearest(output, outputs)}")
        for artifact in self.artifacts:
            if artifact.precision not in self.golden.tolerance:
                raise ValueError(f"golden.tolerance says nothing about {artifact.precision}")

    @property
    def files(self) -> list[File]:
        """Every file that the card lists: the artifacts', the golden one, then timm's."""
        return [*(file for artifact in self.artifacts for file in artifact.files), self.golden, *self.timm]

    @property
    def general(self) -> float | None:
        """Top-1 (0..1) of the 1000 classes on photos of the world, in the worst of its files; None: not measured."""
        found = [on_world(artifact.metrics) for artifact in self.artifacts]
        return min((top1 for top1 in found if top1 is not None), default=None)

    @property
    def teacher_general(self) -> float | None:
        """The same of its teacher, given photos of the size that is best for it; None: not measured."""
        found = [on_world(metrics) for metrics in self.training.teacher.metrics.values()] if self.training else []
        return max((top1 for top1 in found if top1 is not None), default=None)

    @property
    def answers(self) -> bool:
        """Whether the default head may answer where none is named: not when it was measured to be dead."""
        ours, theirs = self.general, self.teacher_general
        return ours is None or theirs is None or ours >= DEAD_HEAD * theirs

    def head(self, name: str | None = None) -> Head | None:
        """The head called `name` (None: the default one), or None when there is no such head."""
        wanted = self.default_head if name is None else name
        return next((head for head in self.heads if head.name == wanted), None)


def on_world(metrics: Iterable[Metric]) -> float | None:
    """The top-1 (0..1) of the 1000 classes on photos of the world among `metrics`, None where it is not there."""
    return next((one.value for one in metrics if (one.name, one.dataset) == (GENERAL, WORLD)), None)


def default_of(cards: Iterable[ModelCard]) -> ModelCard | None:
    """The smallest student whose 1000 classes are worth showing on photos of the world.

    Where none is, the best there, and of those that were not measured the largest. None without cards.
    """
    known = sorted(cards, key=lambda card: card.parameters)
    worth = (card for card in known if (card.general or 0) >= WORTH_SHOWING)
    return next(worth, max(known, key=lambda card: (card.general or 0, card.parameters), default=None))


class IndexEntry(_Strict, frozen=True):
    """One model of a zoo; `sha256` and `bytes` are those of its card.json, so a tampered card is noticed."""

    id: ModelId
    revision: Name
    sha256: Sha256
    bytes: Annotated[int, Meta(gt=0, le=MAX_DOCUMENT_BYTES)]
    description: Text


class Index(_Strict, frozen=True):
    """The `index.json` of a zoo."""

    models: list[IndexEntry]
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        _unique("models", [entry.id for entry in self.models])


def _unique(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what} repeat: {', '.join(repeated)}")
