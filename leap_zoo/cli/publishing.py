"""`leap-zoo publish`, `sign` and `triton`: put models into a zoo, sign them, and write them for other servers."""

from __future__ import annotations

import argparse

from leap_zoo.cli.grammar import Commands, add_model, at_least_one
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
    command = commands.add(
        "triton",
        _triton,
        "write a model repository for Triton and KServe",
        "leap-zoo triton repository/ --model leap-tiny",
    )
    command.add_argument("folder", help="of the repository; models that are there stay")
    add_model(command)
    command.add_argument("--precision", choices=("int8", "fp16", "fp32"), help="default: int8 where the model has it")
    command.add_argument("--threads", type=at_least_one, default=1, metavar="N", help="per instance (default: 1)")
    command.add_argument("--storage", default="pvc://models/repository", metavar="URI", help="KServe's storageUri")


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


def _triton(options: argparse.Namespace) -> int:
    from leap_zoo.triton import write_repository

    home = write_repository(
        options.folder,
        options.model,
        zoo=options.zoo,
        precision=options.precision,
        threads=options.threads,
        storage=options.storage,
    )
    if options.json:
        return print_json({"folder": str(home), "service": f"{home}.yaml"})
    say(f"{home}: config.pbtxt, labels, 1/model.onnx; {home}.yaml is an InferenceService of KServe")
    return 0
