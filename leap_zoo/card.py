"""The schema of a published model: `card.json`, and the `index.json` that lists cards.

Strict on purpose: unknown keys are refused (the error names the nearest known one), every file is a plain file name
with its size and sha256, and both documents are bounded before they are parsed. Reading and writing go through the same
validation, so what was written can be read.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from leap_zoo.errors import InvalidCard, nearest, short

SCHEMA: Final = 1
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # a card with a 1000-class head has about 60 kB

Precision = Literal["fp32", "int8"]

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


class Head(_Strict, frozen=True):
    """A named classification head: graph output `output` (batch, len(labels)), logits in the order of `labels`."""

    name: Name
    output: Name
    labels: Annotated[list[Annotated[str, Meta(min_length=1, max_length=300)]], Meta(min_length=1)]


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


class Artifact(_Strict, frozen=True):
    """One published file of a model."""

    file: FileName
    bytes: Positive
    sha256: Sha256
    precision: Precision
    opset: Positive
    ir: Positive
    minimum_runtime: Version  # of ONNX Runtime, e.g. "1.17"
    format: Literal["onnx"] = "onnx"
    tools: dict[str, str] = {}  # tool -> version, of what built the file
    quantisation: dict[str, Any] | None = None  # the recipe; None for fp32
    metrics: list[Metric] = []


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


class Teacher(_Strict, frozen=True):
    """Who taught: the model's name, and where its weights came from."""

    name: Text
    provenance: Text


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


class Golden(_Strict, frozen=True):
    """Photos with the outputs they gave where the model was published (`leap_zoo.verify` reads and writes the file).

    `tolerance` is precision -> instruction set -> largest absolute difference, on L2-normalised embeddings and on
    softmax scores. Every precision has a `default`; `vnni` (x86) and `dotprod` (ARM) apply where the CPU has them.
    """

    file: FileName
    bytes: Positive
    sha256: Sha256
    tolerance: dict[Precision, dict[str, Annotated[float, Meta(gt=0, le=1)]]]

    def __post_init__(self) -> None:
        for precision, by_isa in self.tolerance.items():
            if "default" not in by_isa:
                raise ValueError(f"tolerance of {precision} has no `default`")


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
    latency: list[Latency] = []
    training: Training | None = None

    def __post_init__(self) -> None:
        heads = [head.name for head in self.heads]
        _unique("heads", heads)
        _unique("artifact files", [artifact.file for artifact in self.artifacts] + [self.golden.file, "card.json"])
        _unique("artifact precisions", [artifact.precision for artifact in self.artifacts])
        if self.default_head not in heads:
            raise ValueError(
                f"default_head {self.default_head!r} is none of the heads{nearest(self.default_head, heads)}"
            )
        outputs = [tensor.name for tensor in self.outputs]
        for output in ["embedding", "teacher_embedding", *(head.output for head in self.heads)]:
            if output not in outputs:
                raise ValueError(f"output {output!r} is needed but not among `outputs`{nearest(output, outputs)}")
        for artifact in self.artifacts:
            if artifact.precision not in self.golden.tolerance:
                raise ValueError(f"golden.tolerance says nothing about {artifact.precision}")

    def head(self, name: str | None = None) -> Head | None:
        """The head called `name` (None: the default one), or None when there is no such head."""
        wanted = self.default_head if name is None else name
        return next((head for head in self.heads if head.name == wanted), None)


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


def parse_card(data: bytes, where: str = "card.json") -> ModelCard:
    """The card in `data` (JSON, UTF-8). `where` names it in errors. Raises InvalidCard."""
    return _parse(data, ModelCard, where)


def parse_index(data: bytes, where: str = "index.json") -> Index:
    """The index in `data` (JSON, UTF-8). `where` names it in errors. Raises InvalidCard."""
    return _parse(data, Index, where)


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """Read a card.json. Raises InvalidCard; OSError when the file cannot be read."""
    return parse_card(read_document(Path(path)), str(path))


def read_index(path: str | os.PathLike[str]) -> Index:
    """Read an index.json. Raises InvalidCard; OSError when the file cannot be read."""
    return parse_index(read_document(Path(path)), str(path))


def write_card(path: str | os.PathLike[str], card: ModelCard) -> bytes:
    """Write a card.json (atomically) and return its bytes. Raises InvalidCard when it could not be read back."""
    return _write(Path(path), card, ModelCard)


def write_index(path: str | os.PathLike[str], index: Index) -> bytes:
    """Write an index.json (atomically) and return its bytes. Raises InvalidCard when it could not be read back."""
    return _write(Path(path), index, Index)


def index_entry(card: ModelCard, data: bytes) -> IndexEntry:
    """What an index says about `card`, whose card.json has the bytes `data` (as `write_card` returned them)."""
    return IndexEntry(
        id=card.id,
        revision=card.revision,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        description=card.description,
    )


def read_document(path: Path) -> bytes:
    """The bytes of a card or index, never more than MAX_DOCUMENT_BYTES + 1 of them."""
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)


_Document = TypeVar("_Document", ModelCard, Index)


def _parse(data: bytes, kind: type[_Document], where: str) -> _Document:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidCard(f"{where} is larger than {MAX_DOCUMENT_BYTES} bytes; no card is: publish it again")
    try:
        _check_schema(data, where)
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidCard(f"{where}: {_explain(str(error), kind)}; mend that key or publish it again") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidCard(f"{where} is no valid JSON ({error}); publish it again") from error


def _check_schema(data: bytes, where: str) -> None:
    """A newer schema is not a broken card: say so before complaining about keys that we cannot know."""
    version = msgspec.json.decode(data, type=_Version).schema
    if version > SCHEMA:
        raise InvalidCard(f"{where} has schema {version}, this leap-zoo reads {SCHEMA}: pip install -U leap-zoo")


class _Version(msgspec.Struct):
    schema: int = SCHEMA


def _write(path: Path, document: _Document, kind: type[_Document]) -> bytes:
    # What is written is the parsed document: 1 and 1.0 in a float field give the same bytes, hence the same sha256.
    canonical = _parse(msgspec.json.encode(document), kind, path.name)
    data = msgspec.json.format(msgspec.json.encode(canonical), indent=1) + b"\n"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the file from a web server
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return data


def _unique(what: str, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{what} repeat: {', '.join(repeated)}")


_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<key>.*?)`(?: - at `\$(?P<path>.*)`)?\Z", re.DOTALL)


def _explain(message: str, kind: type[msgspec.Struct]) -> str:
    """msgspec's message, with the nearest known key when a key is unknown."""
    found = _UNKNOWN_FIELD.search(message)
    if found is None:
        return message
    known = _keys_at(msgspec.inspect.type_info(kind), (found["path"] or "").lstrip("."))
    return f"unknown key {short(found['key'])}{nearest(found['key'], known)}"


def _keys_at(node: msgspec.inspect.Type, path: str) -> list[str]:
    """The keys of the object at a msgspec path such as `artifacts[0].metrics[1]` or `training`."""
    for part in filter(None, re.split(r"\.|(?=\[)", path)):
        node = _structural(node)
        if part.startswith("["):
            node = node.item_type if isinstance(node, msgspec.inspect.ListType) else getattr(node, "value_type", node)
        elif isinstance(node, msgspec.inspect.StructType):
            node = next((field.type for field in node.fields if field.encode_name == part), node)
    node = _structural(node)
    return [field.encode_name for field in node.fields] if isinstance(node, msgspec.inspect.StructType) else []


def _structural(node: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """Look through `X | None` and through constraints."""
    while isinstance(node, (msgspec.inspect.UnionType, msgspec.inspect.Metadata)):
        if isinstance(node, msgspec.inspect.Metadata):
            node = node.type
        else:
            node = next((t for t in node.types if not isinstance(t, msgspec.inspect.NoneType)), node.types[0])
    return node
