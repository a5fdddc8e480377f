"""`leap-zoo list`, `show` and `verify`: what there is, what is known about it, and whether it works here."""

from __future__ import annotations

import argparse
from pathlib import Path

from leap_zoo.cli.grammar import Commands, add_model, add_zoo
from leap_zoo.cli.output import complain, print_json, say, size
from leap_zoo.errors import ArtifactCorrupt, InvalidCard, LeapZooError, NotSigned


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add("list", _list, "list the models of the zoo", "leap-zoo list --zoo my-zoo/")
    add_zoo(command)
    text = "show a model's card, or what a lone file (.onnx, OpenVINO's .xml) says about itself"
    command = commands.add("show", _show, text, "leap-zoo show leap-tiny --json; leap-zoo show model_int8.onnx")
    add_model(command, positional=True)
    command = commands.add(
        "verify", _verify, "check a model's files and answers on this device", "leap-zoo verify leap-tiny"
    )
    add_model(command, positional=True)
    command.add_argument("--key", metavar="PEM", help="also check that the owner of this public key signed the card")


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
        say(f"{card.id}  {card.parameters / 1e6:.2f} M parameters  {files}")
        say(f"    {card.description}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from leap_zoo.cli.described import card_lines
    from leap_zoo.registry import find

    if _names_a_file(options.model):
        return _show_file(options)
    _, card = find(options.model, options.zoo)
    if options.json:
        return print_json(card)
    for line in card_lines(card):
        say(line)
    return 0


def _names_a_file(model: str) -> bool:
    """No model has a slash in its name, and a name that ends like a model file means the file."""
    from leap_zoo.lone import SUFFIXES

    return Path(model).suffix in SUFFIXES or Path(model).name != model


def _show_file(options: argparse.Namespace) -> int:
    from msgspec.structs import asdict

    from leap_zoo.cli.described import file_lines
    from leap_zoo.lone import listed, read_lone

    file = read_lone(options.model)
    try:
        known = listed(file, options.zoo)
        verdict = f"as {known.file} of {known.model} {known.revision}" if known else "by no zoo that is known here"
    except LeapZooError as error:  # a broken zoo says nothing about the file
        known, verdict = None, f"unknown: {error}"
    if options.json:
        return print_json(asdict(file) | {"listed": known})
    for line in file_lines(file, verdict):
        say(line)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from leap_zoo.verify import verify

    try:
        report = verify(options.model, options.zoo, options.key)
    except (ArtifactCorrupt, InvalidCard, NotSigned) as error:  # index or card: as untrustworthy as a bad file
        if options.json:
            print_json({"model": options.model, "ok": False, "error": str(error)})
        complain(error)
        return 1
    if options.json:
        print_json(report)
    else:
        say(f"{report.model} {report.revision} on {report.device} ({', '.join(report.isa) or 'unknown ISA'})")
        if report.signed:
            say(f"ok    card.json  signed by the owner of {options.key}")
    for artifact in report.artifacts:
        if not artifact.ok and not artifact.skipped:
            complain(artifact.error)
        if not options.json:
            verdict = "ok  " if artifact.ok else "skip" if artifact.skipped else "FAIL"
            note = artifact.error if artifact.skipped else artifact.runtime
            say(f"{verdict}  {artifact.file}  {note or ''}".rstrip())
            for output in artifact.outputs:
                say(f"      {output.output}  differs by {output.difference:.2g}, at most {output.tolerance:.2g}")
    return 0 if report.ok else 1
