"""`leap-zoo list`, `show` and `verify`: the available models, their cards, and whether they work on this device."""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any, cast

from leap_zoo.card import Artifact, File, ModelCard
from leap_zoo.cli.grammar import Commands, add_model, add_providers, add_source, add_zoo, place
from leap_zoo.cli.output import complain, size, tell
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, InvalidCard, LeapZooError, NotSigned, UnknownModel, masked
from leap_zoo.loading import identify, load, locate
from leap_zoo.model_file import names_a_file
from leap_zoo.settings import read_settings
from leap_zoo.store import cards_of, digests_here, models


def add(commands: Commands) -> None:
    """Declare the commands."""
    text = "list the models on this device or in another zoo"
    command = commands.add("list", _list, text, "leap-zoo list --from https://example.org/zoo")
    add_zoo(command)
    add_source(command)
    text = "show a model's card, or the metadata of a lone file (.onnx, or OpenVINO's .xml)"
    command = commands.add("show", _show, text, "leap-zoo show leap-tiny --json; leap-zoo show model_int8.onnx")
    add_model(command, positional=True)
    add_source(command)
    command = commands.add(
        "verify", _verify, "check a model's files and answers on this device", "leap-zoo verify leap-tiny"
    )
    add_model(command, positional=True)
    add_providers(command)
    command.add_argument(
        "--key", type=place, metavar="PEM", help="also check that the owner of this public key signed the card"
    )


def _list(options: argparse.Namespace) -> int:
    source = _source(options)
    cards: list[ModelCard] = []
    failed: list[LeapZooError] = []
    if source is not None:
        from leap_zoo.download import open_zoo

        try:
            with open_zoo(source) as zoo:
                cards = list(cards_of(zoo, failed))
        except LeapZooError as error:  # the models on this device can be listed without LEAP_ZOO_URL's server
            if options.source is not None:
                raise
            failed.append(error)
    if options.source is None:
        known = {card.id for card in cards}
        cards += [card for card in models(options.zoo, failed) if card.id not in known]
    here = digests_here(options.zoo)
    rows = [_row(card, here) for card in cards]
    code = tell(options, rows, _list_lines(rows), failed)
    if not options.json and any(not file["here"] for row in rows for file in row["artifacts"]):
        where = "" if options.source is None else f" --from {masked(options.source)}"
        complain(f"(not here): leap-zoo pull MODEL{where} --format FORMAT --precision PRECISION")
    return code


def _list_lines(rows: Iterable[dict[str, Any]]) -> Iterable[str]:
    for row in rows:
        yield f"{row['id']}  revision {row['revision']}  {row['parameters'] / 1e6:.2f} M parameters"
        yield f"    {row['description']}"
        for file in row["artifacts"]:
            there = "" if file["here"] else "  (not here)"
            yield f"    {file['file']}  {file['format']} {file['precision']}  {size(file['bytes'])}{there}"


def _row(card: ModelCard, here: Container[str]) -> dict[str, Any]:
    """A model for --json. `artifacts`: all that its card lists; `files` and `precisions`: those on this device."""
    files: list[tuple[str, str, str, list[File]]] = [
        (one.file, one.format, one.precision, one.files) for one in card.artifacts
    ]
    files += [(card.timm[-1].file, "timm", "fp32", card.timm)] if card.timm else []
    artifacts = [
        {
            "file": file,
            "format": format,
            "precision": precision,
            "bytes": sum(part.bytes for part in parts),
            "here": all(part.sha256 in here for part in parts),
        }
        for file, format, precision, parts in files
    ]
    keys = ("id", "revision", "family", "description", "parameters")
    runnable = [one for one in artifacts if one["here"] and one["format"] != "timm"]
    return {key: getattr(card, key) for key in keys} | {
        "precisions": [one["precision"] for one in runnable],
        "files": [one["file"] for one in runnable],
        "artifacts": artifacts,
        "heads": [head.name for head in card.heads],
    }


def _source(options: argparse.Namespace) -> str | None:
    """The other zoo to ask: from --from, else LEAP_ZOO_URL if the network may be used."""
    if options.source is not None and options.zoo is not None:
        raise InvalidArgument("--from and --zoo exclude each other: give one (--zoo is a folder to load models from)")
    settings = read_settings()
    if options.source is not None or options.zoo is not None:
        return cast("str | None", options.source)
    return None if settings.offline else settings.url


def _show(options: argparse.Namespace) -> int:
    from leap_zoo.download import open_zoo

    source = _source(options)
    if options.source is None and options.model and "://" not in options.model and names_a_file(options.model):
        return _show_file(options)
    try:
        if options.source is not None:
            raise UnknownModel
        card = locate(options.model, options.zoo)[1]
    except UnknownModel:
        if source is None:
            raise
        with open_zoo(source) as zoo:
            card = zoo.card(zoo.entry(options.model))
    return tell(options, card, _card_lines(card, digests_here(options.zoo)))


def _show_file(options: argparse.Namespace) -> int:
    path = Path(options.model)
    artifact, _, known = identify(path, options.zoo)  # no runtime is needed for a file of a known card
    card = known or load(path, zoo=options.zoo, threads=1).card
    listed = next(one.file for one in card.artifacts if one.sha256 == artifact.sha256) if known else None
    about = {"file": options.model, "verified": known is not None, "listed_as": listed}
    lines = [
        f"{artifact.file}  {artifact.format} {artifact.precision}  {size(artifact.total_bytes)}",
        f"  sha256      {artifact.sha256}",
        f"  verified    yes, it is {listed} of this card:"
        if known
        else "  NOT verified: no known card lists this file. Its own metadata says:",
        *_card_lines(card, {file.sha256 for file in artifact.files}),
    ]
    return tell(options, about | {"artifact": artifact, "card": card}, lines)


def _card_lines(card: ModelCard, here: Container[str]) -> Iterable[str]:
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


def _verify(options: argparse.Namespace) -> int:
    from leap_zoo.verify import verify

    try:
        report = verify(options.model, options.zoo, options.key, providers=options.providers)
    except (ArtifactCorrupt, InvalidCard, NotSigned) as error:  # a bad index or card is as untrustworthy as a bad file
        tell(options, {"model": options.model, "ok": False, "error": str(error)}, [], [error])
        return 1
    lines = [f"{report.model} {report.revision} on {report.device} ({', '.join(report.isa) or 'unknown ISA'})"]
    lines += [f"ok    card.json  signed by the owner of {options.key}"] if report.signed else []
    for artifact in report.artifacts:
        verdict = "ok  " if artifact.ok else "skip" if artifact.skipped else "FAIL"
        note = artifact.error if artifact.skipped else artifact.runtime
        lines.append(f"{verdict}  {artifact.file}  {note or ''}".rstrip())
        for output in artifact.outputs:
            lines.append(f"      {output.output}  differs by {output.difference:.2g}, at most {output.tolerance:.2g}")
    tell(options, report, lines, [one.error for one in report.artifacts if not one.ok and not one.skipped])
    return 0 if report.ok else 1
