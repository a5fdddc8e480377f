"""`leap-zoo publish` and `sign`: what a zoo has for others, and who says so."""

from __future__ import annotations

import argparse

from leap_zoo.cli.grammar import Commands
from leap_zoo.cli.output import complain, print_json, say, size
from leap_zoo.errors import InvalidArgument


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add(
        "publish", _publish, "check a model's folder and list it in a zoo", "leap-zoo publish leap-tiny/ --zoo my-zoo/"
    )
    command.add_argument("folder", nargs="?", help="a folder with card.json and the files that it lists")
    command.add_argument("--zoo", metavar="FOLDER", required=True, help="the zoo, made when it is not there")
    command.add_argument("--reindex", action="store_true", help="list every model folder of the zoo anew instead")
    command = commands.add("sign", _sign, "sign a model, or all of a zoo", "leap-zoo sign my-zoo/ --key private.pem")
    command.add_argument("folder", help="a model's folder, or a zoo")
    command.add_argument("--key", metavar="PEM", required=True, help="an elliptic curve private key")


def _publish(options: argparse.Namespace) -> int:
    from leap_zoo.publish import publish_folder
    from leap_zoo.registry import reindex

    if options.reindex == (options.folder is not None):
        raise InvalidArgument("publish what? Give a model's folder, or --reindex")
    cards = reindex(options.zoo) if options.reindex else [publish_folder(options.folder, options.zoo)]
    if options.json:
        return print_json([{"model": card.id, "revision": card.revision} for card in cards])
    for card in cards:
        total = size(sum(file.bytes for file in card.files))
        say(f"{card.id} {card.revision}  {len(card.files)} files, {total}, all as their card says")
    return 0


def _sign(options: argparse.Namespace) -> int:
    from leap_zoo.signing import sign

    paths = sign(options.folder, options.key)
    if options.json:
        return print_json([str(path) for path in paths])
    for path in paths:
        say(path)
    complain("publish model.sig with the model, and your public key where it can be trusted")
    return 0
