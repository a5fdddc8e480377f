"""`leap-zoo fit`: a head for your own classes, from one folder of photos per class."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from leap_zoo.cli.grammar import Commands, add_artifact, add_model, load_model, place
from leap_zoo.cli.output import about, complain, say
from leap_zoo.cli.photos import sum_up
from leap_zoo.errors import plain
from leap_zoo.files import new_file
from leap_zoo.fitting import Fit, fit
from leap_zoo.heads import SUFFIX

_PAIRS = 5  # confused pairs of classes to print


def add(commands: Commands) -> None:
    """Declare the command."""
    command = commands.add("fit", _fit, "fit a head to your own classes", "leap-zoo fit flowers.head --images flowers/")
    command.add_argument("head", type=place, metavar="NAME.head", help="the file to write")
    command.add_argument(
        "--images",
        required=True,
        type=place,
        metavar="FOLDER",
        help="a folder with one subfolder of photos per class, named after the class",
    )
    command.add_argument("--space", choices=("student", "teacher"), default="student", help="default: student")
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed for cross-validation (default: 0)"
    )
    add_model(command)
    add_artifact(command)


def _fit(options: argparse.Namespace) -> int:
    new_file(options.head, SUFFIX)
    model = load_model(options)
    found = fit(model, options.images, space=options.space, seed=options.seed, progress=True)
    path = found.head.save(options.head)
    for note in found.notes:
        complain(f"note: {note}")
    said = {"file": str(path), "head": found.head.card, "classes": found.classes, "confusions": found.confusions}
    rest = {"bad": found.bad, "notes": found.notes}
    code = sum_up(options, found, sum(found.head.card.photos), about(model) | said, rest)
    if not options.json:
        for line in _lines(found):
            say(line)
        say(f"saved as {path}: leap-zoo classify PHOTO --model {model.card.id} --head {path}")
    return code


def _lines(found: Fit) -> Iterable[str]:
    card = found.head.card
    names = [plain(row.label) for row in found.classes]  # names as printed: escapes are longer than the characters
    width = max(len("class"), *(min(len(name), 40) for name in names))
    yield f"{'class':{width}}  photos  recognized"
    for name, row in zip(names, found.classes, strict=True):
        share = f"{row.right} of {row.tested}" if row.tested else "not tested"
        yield f"{name:{width}}  {row.photos:6}  {share:>10}"
    for pair in found.confusions[:_PAIRS]:
        yield f"{pair.count} x {pair.label} classified as {pair.taken_for}"
    yield f"head: {card.how} ({card.solver})"
    seen = card.validation
    if seen is None:
        yield "accuracy: unknown, because no class has two photos; scores are rough, and no photo gets `not sure`"
        return
    low, high = seen.interval
    yield f"cross-validated accuracy: {seen.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}, {seen.n} photos)"
    yield f"  average score of these answers: {seen.confidence:.1%}"
    yield f"  reported as none of the classes (`not sure`): {seen.unsure:.1%}"
    yield "(each fold trains on fewer photos than this head did, so this tends to be too low)"
