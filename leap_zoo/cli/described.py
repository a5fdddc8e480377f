"""Cards and model files as readable lines."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from leap_zoo.cli.output import size

if TYPE_CHECKING:
    from leap_zoo.card import Artifact, File, ModelCard
    from leap_zoo.model import Model


def row_lines(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The models of `leap-zoo list`, from the same rows as --json."""
    for row in rows:
        yield f"{row['id']}  revision {row['revision']}  {row['parameters'] / 1e6:.2f} M parameters"
        yield f"    {row['description']}"
        for file in row["artifacts"]:
            there = "" if file["here"] else "  (not here)"
            yield f"    {file['file']}  {file['format']} {file['precision']}  {size(file['bytes'])}{there}"


def card_lines(card: ModelCard, here: Container[str]) -> Iterable[str]:
    """A card, without golden file, quantization search and full label lists. here: sha256 of files on this device."""
    dims, licences = card.embedding_dims, card.licences
    yield f"{card.id}  revision {card.revision}"
    yield f"  {card.description}"
    if card.parameters:
        yield f"  parameters  {card.parameters:,}"
    if (student := card.architecture) is not None:
        yield (
            f"  student     {student.depth} blocks of width {student.width}, {student.heads} heads, "
            f"patches of {student.patch} px, {student.registers} registers, pooling {student.pooling}"
        )
    spec = card.preprocessing
    yield f"  photo       short side to {spec.short_side} ({spec.filter}), center {spec.size} x {spec.size}"
    yield f"  embeddings  student {dims.student}, teacher {dims.teacher}"
    for head in card.heads:
        sample = ", ".join(head.labels[:3]) + (", ..." if len(head.labels) > 3 else "")
        default = " (default)" if head.name == card.default_head else ""
        yield f"  head        {head.name}{default}: {len(head.labels)} classes: {sample}"
    yield f"  licenses    code {licences.code}; weights {licences.weights}"
    yield f"              teacher {licences.teacher}; data {licences.data}"
    for artifact in card.artifacts:
        yield from _artifact_lines(card, artifact, here)
    for file in card.timm:
        yield f"  {file.file}  timm fp32  {_file(file, here)}"
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


def file_lines(model: Model) -> Iterable[str]:
    """A lone model file: whether a card lists it, and that card or the file's own metadata."""
    card, artifact = model.card, model.artifact
    yield f"{artifact.file}  {artifact.format} {artifact.precision}  {size(artifact.total_bytes)}"
    yield f"  sha256      {artifact.sha256}"
    if (name := listed_as(model)) is not None:
        yield f"  verified    yes, it is {name} of this card:"
    else:
        yield "  NOT verified: no known card lists this file. Its own metadata says:"
    yield from card_lines(card, {file.sha256 for file in artifact.files})


def listed_as(model: Model) -> str | None:
    """The name under which the card lists a model file; None for an unverified file."""
    if not model.verified:
        return None
    return next(one.file for one in model.card.artifacts if one.sha256 == model.artifact.sha256)
