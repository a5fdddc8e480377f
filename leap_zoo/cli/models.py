"""`leap-zoo list`, `show` and `verify`: what there is, what is known about it, and whether it works here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from leap_zoo.cli.grammar import Commands, add_model, add_zoo
from leap_zoo.cli.output import print_json, size
from leap_zoo.errors import ArtifactCorrupt, InvalidCard

if TYPE_CHECKING:
    from leap_zoo.card import ModelCard


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add("list", _list, "list the models of the zoo", "leap-zoo list --zoo my-zoo/")
    add_zoo(command)
    command = commands.add("show", _show, "show a model's card", "leap-zoo show leap-nano --json")
    add_model(command, positional=True)
    command = commands.add(
        "verify", _verify, "check a model's files and answers on this device", "leap-zoo verify leap-nano"
    )
    add_model(command, positional=True)


def _list(options: argparse.Namespace) -> int:
    from leap_zoo.registry import models

    cards = models(options.zoo)
    if options.json:
        keys = ("id", "revision", "family", "description", "parameters")
        rows = [
            {key: getattr(card, key) for key in keys}
            | {
                "precisions": [a.precision for a in card.artifacts],
                "files": [a.file for a in card.artifacts],
                "heads": [h.name for h in card.heads],
            }
            for card in cards
        ]
        return print_json(rows)
    for card in cards:
        files = ", ".join(
            f"{artifact.format} {artifact.precision} {size(artifact.total_bytes)}" for artifact in card.artifacts
        )
        print(f"{card.id}  {card.parameters / 1e6:.2f} M parameters  {files}\n    {card.description}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from leap_zoo.registry import find

    _, card = find(options.model, options.zoo)
    if options.json:
        return print_json(card)
    print("\n".join(_card_lines(card)))
    return 0


def _card_lines(card: ModelCard) -> Iterable[str]:
    spec, dims, licences = card.preprocessing, card.embedding_dims, card.licences
    yield f"{card.id}  revision {card.revision}"
    yield f"  {card.description}"
    yield f"  parameters  {card.parameters:,}"
    yield f"  photo       short side to {spec.short_side} ({spec.filter}), centre {spec.size} x {spec.size}"
    yield f"  embeddings  student {dims.student}, teacher {dims.teacher}"
    for head in card.heads:
        default = " (default)" if head.name == card.default_head else ""
        sample = ", ".join(head.labels[:3]) + (", ..." if len(head.labels) > 3 else "")
        yield f"  head        {head.name}{default}: {len(head.labels)} classes: {sample}"
    yield f"  licences    code {licences.code}; weights {licences.weights}"
    yield f"              teacher {licences.teacher}; data {licences.data}"
    for artifact in card.artifacts:
        yield f"  {artifact.file}  {artifact.precision}  {size(artifact.bytes)}  sha256 {artifact.sha256}"
        for metric in artifact.metrics:
            interval = "" if metric.interval is None else f" ({metric.interval[0]:.4g} to {metric.interval[1]:.4g})"
            head_name = f" [{metric.head}]" if metric.head else ""
            where = f"{metric.dataset} {metric.split}, n={metric.n}"
            yield f"    {metric.name}{head_name}  {metric.value:.4g}{interval}  {where}"
        for row in (row for row in card.latency if row.file == artifact.file):
            yield f"    {row.median_ms:.3g} ms median, batch {row.batch}, {row.threads} threads, {row.device}"
    if card.training is not None:
        training = card.training
        yield f"  training    {training.strategy} from {training.teacher.name}, {training.epochs:g} epochs"
        yield f"              {training.teacher_flops_saved:.1%} of the teacher's FLOPs saved; commit {training.commit}"


def _verify(options: argparse.Namespace) -> int:
    from leap_zoo.verify import verify

    try:
        report = verify(options.model, options.zoo)
    except (ArtifactCorrupt, InvalidCard) as error:  # index or card themselves: as untrustworthy as a bad file
        if options.json:
            print_json({"model": options.model, "ok": False, "error": str(error)})
        print(f"leap-zoo: {error}", file=sys.stderr)
        return 1
    if options.json:
        print_json(report)
    else:
        print(f"{report.model} {report.revision} on {report.device} ({', '.join(report.isa) or 'unknown ISA'})")
    for artifact in report.artifacts:
        if not artifact.ok and not artifact.skipped:
            print(f"leap-zoo: {artifact.error}", file=sys.stderr)
        if not options.json:
            verdict = "ok  " if artifact.ok else "skip" if artifact.skipped else "FAIL"
            note = artifact.error if artifact.skipped else artifact.runtime
            print(f"{verdict}  {artifact.file}  {note or ''}".rstrip())
            for output in artifact.outputs:
                print(f"      {output.output}  differs by {output.difference:.2g}, at most {output.tolerance:.2g}")
    return 0 if report.ok else 1
