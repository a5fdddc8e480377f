"""`leap-zoo publish` and `sign`: put models into a zoo, and sign them."""

from __future__ import annotations

import argparse

from leap_zoo.cli.grammar import Commands
from leap_zoo.cli.output import complain, print_json, say, size
from leap_zoo.errors import InvalidArgument


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add(
        "publish", _publish, "check a model and add it to a zoo", "leap-zoo publish leap-tiny/ --zoo my-zoo/"
    )
    command.add_argument("folder", nargs="?", help="a model's folder: card.json and the files that it lists")
    command.add_argument("--zoo", metavar="FOLDER", required=True, help="the zoo's folder, created if needed")
    command.add_argument(
        "--reindex", action="store_true", help="rebuild the index from the model folders in the zoo instead"
    )
    command = commands.add("sign", _sign, "sign a model, or all of a zoo", "leap-zoo sign my-zoo/ --key private.pem")
    command.add_argument("folder", help="a model's folder, or a zoo")
    command.add_argument("--key", metavar="PEM", required=True, help="an elliptic curve private key")


def _publish(options: argparse.Namespace) -> int:
    from leap_zoo.publish import publish_folder, reindex

    if options.reindex == (options.folder is not None):
        raise InvalidArgument("nothing to publish: give a model's folder, or --reindex")
    cards = reindex(options.zoo) if options.reindex else [publish_folder(options.folder, options.zoo)]
    if options.json:
        return print_json([{"model": card.id, "revision": card.revision} for card in cards])
    for card in cards:
        total = size(sum(file.bytes for file in card.files))
        say(f"{card.id} {card.revision}  {len(card.files)} files, {total}, all match the card")
    return 0


def _sign(options: argparse.Namespace) -> int:
    from leap_zoo.signing import sign

    paths = sign(options.folder, options.key)
    if options.json:
        return print_json([str(path) for path in paths])
    for path in paths:
        say(path)
    complain("publish model.sig with the model, and your public key in a place that users trust")
    return 0
