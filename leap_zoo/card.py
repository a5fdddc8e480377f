"""The schema of a published model: `card.json`, and the `index.json` that lists cards.

It is strict on purpose: unknown keys are refused, and every file has a plain name, a size and a sha256.
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

# Files in a model's folder that its card does not list.
OTHER_FILES = ("card.json", "README.md", "curriculum.svg", "model.sig")

# The figure that decides which model is the default: 1000 classes, on photos that no model was trained on.
WORLD, GENERAL, CLASSES = "nips2017", "top-1 of 1000 classes", 1000
WORTH_SHOWING = 0.7  # lower bound for the default model
DEAD_HEAD = 0.5  # share of the teacher's; a head below it must be named to be used

Precision = Literal["fp32", "fp16", "int8"]
Format = Literal["onnx", "openvino", "executorch"]

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


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A document, or a part of one, in which unknown keys are errors."""


class Licences(Strict, frozen=True):
    """Four licenses, because four parties grant them."""

    code: Text
    weights: Text
    teacher: Text
    data: Text


class Preprocessing(Strict, frozen=True):
    """How a photo becomes the graph's input. Only `leap_zoo.preprocess` implements it.

    The short side is resized to `short_side` pixels, then the center `size` x `size` pixels are kept.
    """

    size: Annotated[int, Meta(gt=0, le=2048)]
    short_side: Annotated[int, Meta(gt=0, le=4096)]
    filter: Literal["bicubic", "bilinear"] = "bicubic"
    crop: Literal["center"] = "center"

    def __post_init__(self) -> None:
        if self.size > self.short_side:
            raise ValueError(f"the crop ({self.size}) must not exceed the short side ({self.short_side})")


class Doubt(Strict, frozen=True):
    """When to doubt a head's answer, calibrated on `n` photos of `dataset` that the student was not trained on.

    Scores are the softmax of logits / `temperature`. A photo whose distance (`leap_zoo.doubt.energies` of its logits)
    exceeds `threshold` is unlike the training photos; 5 % of the calibration photos exceed it.
    """

    temperature: Annotated[float, Meta(ge=1e-6)]  # logits divided by it stay finite
    threshold: float
    dataset: Text
    n: Positive


class Head(Strict, frozen=True, omit_defaults=True):
    """A named classification head: graph output `output` (batch, len(labels)), logits in the order of `labels`."""

    name: Name
    output: Name
    labels: Annotated[list[Annotated[str, Meta(min_length=1, max_length=300)]], Meta(min_length=1)]
    doubt: Doubt | None = None


class Tensor(Strict, frozen=True):
    """One input or output of the graph, e.g. `image`, `uint8`, `["batch", 224, 224, 3]`."""

    name: Name
    dtype: Literal["uint8", "float32"]
    shape: list[int | str]


class EmbeddingDims(Strict, frozen=True):
    """Embedding length in each space: D_s and D_t."""

    student: Positive
    teacher: Positive


class Metric(Strict, frozen=True):
    """One figure measured on the published file: its name, data set, number of photos and confidence interval.

    `value` and the 95 % `interval` have the unit of the metric (shares are in 0..1).
    """

    name: Text
    dataset: Text
    split: Text
    n: Positive
    value: float
    interval: tuple[float, float] | None = None
    head: str | None = None


class File(Strict, frozen=True):
    """A file beside the card, by plain name."""

    file: FileName
    bytes: Annotated[int, Meta(gt=0, le=MAX_FILE_BYTES)]
    sha256: Sha256


class Artifact(File, frozen=True):
    """One published form of a model. An ONNX file is self-contained.

    An OpenVINO IR has its `weights` in a second file.
    """

    precision: Precision
    ir: Positive  # version of the format: ONNX IR, OpenVINO IR or ExecuTorch program
    minimum_runtime: Version  # version of ONNX Runtime, OpenVINO or ExecuTorch, e.g. "1.17"
    format: Format = "onnx"
    weights: File | None = None
    opset: Positive | None = None  # ONNX only
    tools: dict[str, str] = {}  # tools that built the file -> version
    quantisation: dict[str, Any] | None = None  # the quantization recipe; None for floats
    metrics: list[Metric] = []

    def __post_init__(self) -> None:
        if (self.format == "openvino") != (self.weights is not None):
            raise ValueError(f"`weights` of {self.file}: an OpenVINO IR has them in a second file, others inside")
        if (self.format == "onnx") != (self.opset is not None):
            raise ValueError(f"`opset` of {self.file}: an ONNX file has one, an OpenVINO IR does not")

    @property
    def files(self) -> list[File]:
        """Every file needed to run this artifact; the artifact itself comes first."""
        return [self] if self.weights is None else [self, self.weights]

    @property
    def total_bytes(self) -> int:
        """Total size of its files."""
        return sum(file.bytes for file in self.files)


class Latency(Strict, frozen=True):
    """Milliseconds per call of one artifact on one device. A row is only meaningful with its device and ISA."""

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


class CurriculumStep(Strict, frozen=True):
    """`block` (1-based) became the target at `step`, for `reason`, at `similarity` to the previous target."""

    step: Annotated[int, Meta(ge=0)]
    block: Positive
    similarity: float | None
    reason: Text


class Teacher(Strict, frozen=True, omit_defaults=True):
    """The teacher: the model's name, and where its weights came from.

    `pixels`: side length of the photos that it saw; None: the same as the student's.
    `metrics`: the teacher's own figures, measured like the artifacts', by the size of its photos (such as `224 px`).
    """

    name: Text
    provenance: Text
    pixels: Positive | None = None
    metrics: dict[Text, list[Metric]] = {}


class Training(Strict, frozen=True):
    """How the student was trained.

    `images`: views of photos that it learned from. `teacher_flops_saved` is a share (0..1) of the cost of always
    running the whole teacher. `continued`: the published student whose weights it began with.
    """

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
    images: Positive | None = None
    continued: Continued | None = None


class Continued(Strict, frozen=True):
    """A published student whose weights another one began with, and how it was trained itself."""

    id: ModelId
    revision: Name
    training: Training | None = None


class Golden(File, frozen=True):
    """Photos with the outputs that they gave on the publisher's machine (`leap_zoo.verify` checks them).

    `tolerance` is precision -> instruction set -> largest absolute difference, on L2-normalized embeddings and on
    softmax scores. Every precision has a `default`; `vnni` (x86) and `dotprod` (ARM) apply on CPUs that have them.
    """

    tolerance: dict[Precision, dict[str, Annotated[float, Meta(gt=0, le=1)]]]

    def __post_init__(self) -> None:
        for precision, by_isa in self.tolerance.items():
            if "default" not in by_isa:
                raise ValueError(f"tolerance of {precision} has no `default`")


class Candidate(Strict, frozen=True):
    """One quantization that was tried, compared with fp32 on photos that no reported figure uses.

    `cosine_mean` and `cosine_min` compare embeddings. `relative_ms` is its fastest call divided by that of the fp32
    ONNX file on ONNX Runtime, measured in turns at batch 1 (below 1: faster). A candidate that could not be built has
    no figures. `outcome`: chosen, or the reason against it.
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


class Sensitivity(Strict, frozen=True):
    """The effect of quantizing one layer alone: mean cosine of the embeddings to fp32's."""

    layer: Text
    cosine_mean: Share


class Search(Strict, frozen=True):
    """How the quantized artifacts were chosen: the photos, the machine, and every candidate."""

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


class Architecture(Strict, frozen=True):
    """The student in timm's terms: `VisionTransformer(patch_size, embed_dim, depth, num_heads, mlp_ratio, ...)`."""

    patch: Positive
    width: Positive
    depth: Positive
    heads: Positive
    mlp_ratio: NotNegative
    registers: Annotated[int, Meta(ge=0)] = 0
    layer_scale: bool = False
    pooling: Literal["cls", "patch_mean"] = "cls"


class ModelCard(Strict, frozen=True):
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
    timm: list[File] = []  # config.json and model.safetensors, which timm's `local-dir:` and `hf-hub:` read

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
        """Every file that the card lists: the artifacts' files, the golden file, then timm's."""
        return [*(file for artifact in self.artifacts for file in artifact.files), self.golden, *self.timm]

    @property
    def general(self) -> float | None:
        """Top-1 (0..1) over the 1000 classes on general photos, for the worst of its files; None: not measured."""
        found = [on_world(artifact.metrics) for artifact in self.artifacts]
        return min((top1 for top1 in found if top1 is not None), default=None)

    @property
    def teacher_general(self) -> float | None:
        """The same for its teacher, at the photo size that suits it best; None: not measured."""
        found = [on_world(metrics) for metrics in self.training.teacher.metrics.values()] if self.training else []
        return max((top1 for top1 in found if top1 is not None), default=None)

    @property
    def answers(self) -> bool:
        """Whether the default head may be used without naming it: not if the export left out the general head, nor if
        that is far less accurate than the teacher's.
        """
        ours, theirs = self.general, self.teacher_general
        if ours is None:
            return True
        return any(len(head.labels) == CLASSES for head in self.heads) and ours >= DEAD_HEAD * (theirs or 0)

    def head(self, name: str | None = None) -> Head | None:
        """The head called `name` (None: the default one), or None when there is no such head."""
        wanted = self.default_head if name is None else name
        return next((head for head in self.heads if head.name == wanted), None)


def on_world(metrics: Iterable[Metric]) -> float | None:
    """Top-1 (0..1) over the 1000 classes on general photos, from `metrics`; None if they lack it."""
    return next((one.value for one in metrics if (one.name, one.dataset) == (GENERAL, WORLD)), None)


def default_of(cards: Iterable[ModelCard]) -> ModelCard | None:
    """The smallest student whose 1000 classes are accurate enough on general photos.

    If no student is, the most accurate one; if none was measured, the largest. None without cards.
    """
    known = sorted(cards, key=lambda card: card.parameters)
    worth = (card for card in known if (card.general or 0) >= WORTH_SHOWING)
    return next(worth, max(known, key=lambda card: (card.general or 0, card.parameters), default=None))


class IndexEntry(Strict, frozen=True):
    """One model of a zoo. `sha256` and `bytes` describe its card.json, so that tampering is detected."""

    id: ModelId
    revision: Name
    sha256: Sha256
    bytes: Annotated[int, Meta(gt=0, le=MAX_DOCUMENT_BYTES)]
    description: Text


class Index(Strict, frozen=True):
    """The `index.json` of a zoo."""

    models: list[IndexEntry]
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        _unique("models", [entry.id for entry in self.models])


def _unique(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what} repeat: {', '.join(repeated)}")
