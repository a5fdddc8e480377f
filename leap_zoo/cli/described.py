"""Cards and model files as lines for people."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leap_zoo.cli.output import size

if TYPE_CHECKING:
    from leap_zoo.card import Artifact, File, ModelCard, Preprocessing, Search
    from leap_zoo.model_file import Described


def row_lines(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The models of `leap-zoo list`, as --json has them."""
    for row in rows:
        yield f"{row['id']}  revision {row['revision']}  {row['parameters'] / 1e6:.2f} M parameters"
        yield f"    {row['description']}"
        for file in row["artifacts"]:
            there = "" if file["here"] else "  (not here)"
            yield f"    {file['file']}  {file['format']} {file['precision']}  {size(file['bytes'])}{there}"


def card_lines(card: ModelCard, here: Container[str]) -> Iterable[str]:
    """All of a card but the golden file and the whole lists of labels. here: the sha256 of files on this device."""
    dims, licences = card.embedding_dims, card.licences
    yield f"{card.id}  revision {card.revision}"
    yield f"  {card.description}"
    yield f"  parameters  {card.parameters:,}"
    if (student := card.architecture) is not None:
        yield (
            f"  student     {student.depth} blocks of width {student.width}, {student.heads} heads, "
            f"patches of {student.patch} px, {student.registers} registers, pooling {student.pooling}"
        )
    yield _photo(card.preprocessing)
    yield f"  embeddings  student {dims.student}, teacher {dims.teacher}"
    yield from _heads({head.name: head.labels for head in card.heads}, card.default_head)
    yield f"  licences    code {licences.code}; weights {licences.weights}"
    yield f"              teacher {licences.teacher}; data {licences.data}"
    for artifact in card.artifacts:
        yield from _artifact_lines(card, artifact, here)
    for file in card.timm:
        yield f"  {file.file}  timm fp32  {_file(file, here)}"
    if card.search is not None:
        yield from _search_lines(card.search)
    if (training := card.training) is not None:
        yield f"  training    {training.strategy} from {training.teacher.name}, {training.epochs:g} epochs"
        yield f"              {training.teacher_flops_saved:.1%} of the teacher's FLOPs saved; commit {training.commit}"


def _artifact_lines(card: ModelCard, artifact: Artifact, here: Container[str]) -> Iterable[str]:
    yield f"  {artifact.file}  {artifact.format} {artifact.precision}  {_file(artifact, here)}"
    if (weights := artifact.weights) is not None:
        yield f"    with {weights.file}  {_file(weights, here)}"
    for metric in artifact.metrics:
        interval = "" if metric.interval is None else f" ({metric.interval[0]:.4g} to {metric.interval[1]:.4g})"
        head_name = f" [{metric.head}]" if metric.head else ""
        where = f"{metric.dataset} {metric.split}, n={metric.n}"
        yield f"    {metric.name}{head_name}  {metric.value:.4g}{interval}  {where}"
    for row in (row for row in card.latency if row.file == artifact.file):
        threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
        memory = "" if row.peak_memory_bytes is None else f", peak {size(row.peak_memory_bytes)}"
        yield (
            f"    {row.median_ms:.3g} ms median ({row.min_ms:.3g} min, {row.p95_ms:.3g} p95)  batch {row.batch}, "
            f"{threads}{memory}, {row.runtime}, {row.device}"
        )


def _file(file: File, here: Container[str]) -> str:
    return f"{size(file.bytes)}  sha256 {file.sha256}" + ("" if file.sha256 in here else "  (not here)")


def _search_lines(search: Search) -> Iterable[str]:
    yield (
        f"  search      {len(search.candidates)} candidates on {search.n} photos of {search.dataset} {search.split}, "
        f"{search.minutes:.0f} min, {search.device}"
    )
    for candidate in search.candidates:
        speed = "" if candidate.relative_ms is None else f", {candidate.relative_ms:.2f} of the time of fp32"
        yield (
            f"    {candidate.format} {candidate.precision}  {candidate.name}: {candidate.outcome}; "
            f"cosine {candidate.cosine_mean:.4f}{speed}"
        )


def file_lines(file: Described) -> Iterable[str]:
    """A model file, and what is known of it."""
    says, listed = file.says, file.listed
    yield f"{file.file}  {file.format}  {size(file.bytes)}"
    yield f"  sha256      {file.sha256}"
    yield "  listed      " + (
        f"as {listed['file']} of {listed['model']} {listed['revision']}" if listed else "by no zoo that is known here"
    )
    if file.weights is not None:
        yield f"  weights     {file.weights}"
    for what, ports in (("input", file.inputs), ("output", file.outputs)):
        for name, (dtype, shape) in ports.items():
            yield f"  {what:<11} {name}  {dtype} ({', '.join('?' if axis is None else str(axis) for axis in shape)})"
    yield "  It says of itself (not verified):"
    yield f"  model       {says.model_id}  revision {says.revision}"
    yield f"              {says.description}"
    yield _photo(says.preprocessing)
    yield from _heads(says.labels)
    yield "  licences    " + "; ".join(f"{of} {licence}" for of, licence in says.licences.items())


def _photo(spec: Preprocessing) -> str:
    return f"  photo       short side to {spec.short_side} ({spec.filter}), centre {spec.size} x {spec.size}"


def _heads(labels: Mapping[str, Sequence[str]], default: str | None = None) -> Iterable[str]:
    for head, names in labels.items():
        sample = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        yield f"  head        {head}{' (default)' if head == default else ''}: {len(names)} classes: {sample}"
