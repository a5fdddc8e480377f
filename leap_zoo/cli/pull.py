"""`leap-zoo pull` and `cache`: fetch models, and manage the fetched files."""

from __future__ import annotations

import argparse
from typing import Any

from leap_zoo.cli.grammar import Commands, add_source, place
from leap_zoo.cli.output import size, tell
from leap_zoo.errors import InvalidArgument, LeapZooError
from leap_zoo.settings import read_settings
from leap_zoo.store import Cache, cards_of


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add(
        "pull",
        _pull,
        "fetch a model from a server, a hub or a folder",
        "leap-zoo pull leap-tiny --from https://example.org/zoo --precision fp32 --to models/",
    )
    command.add_argument("model", nargs="?", help="default: the source's only model, else the default model")
    add_source(command)
    command.add_argument("--to", type=place, metavar="DIR", help="write the files to DIR/MODEL instead of the cache")
    command.add_argument("--all", dest="everything", action="store_true", help="every file")
    command.add_argument("--precision", choices=("int8", "fp16", "fp32"), help="default: what load would choose")
    command.add_argument(
        "--format",
        choices=("onnx", "openvino", "executorch", "timm"),
        help="default: what load would choose; timm: the files for timm",
    )
    command = commands.add("cache", _cache, "list, remove or clean up pulled models", "leap-zoo cache rm leap-micro")
    command.add_argument(
        "action",
        nargs="?",
        choices=("list", "rm", "prune"),
        default="list",
        help="rm: remove models; prune: remove files that no pulled model lists; default: list",
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="of rm")
    command.add_argument("--prune", dest="action", action="store_const", const="prune", help="the same as prune")


def _pull(options: argparse.Namespace) -> int:
    from leap_zoo.pull import pull

    pulled = pull(
        options.model,
        options.source,
        to=options.to,
        precision=options.precision,
        format=options.format,
        everything=options.everything,
        shown=True,
    )
    lines = [f"{pulled.model} {pulled.revision} from {pulled.source}" + (", signed" if pulled.signed else "")]
    for file in pulled.files:
        here = "" if file.downloaded or options.to is not None else "  (was here)"
        lines += [f"  {file.file}  {size(file.bytes)}  sha256 {file.sha256}{here}", f"    {file.path}"]
    end = f"nothing to pull, all files are here; to write them to a folder: leap-zoo pull {pulled.model} --to DIR"
    if options.to is not None:
        end = "sizes and sha256 match the card; the folder can be copied anywhere"
    elif any(file.downloaded for file in pulled.files):
        end = f"sizes and sha256 match the card; to test it on this device: leap-zoo verify {pulled.model}"
    return tell(options, pulled, [*lines, end])


def _cache(options: argparse.Namespace) -> int:
    if (options.action == "rm") != bool(options.models):
        raise InvalidArgument("rm needs a model, list and prune take none: give list, rm MODEL, or prune")
    cache, freed = Cache(read_settings().home), 0
    if options.action == "rm":
        freed = cache.remove(*options.models)
    elif options.action == "prune":
        freed = cache.prune()
    rows: list[dict[str, Any]] = []
    failed: list[LeapZooError] = []
    for card in cards_of(cache, failed):
        files = [file for file in card.files if file != card.golden and cache.has(card, file)]
        rows.append(
            {
                "model": card.id,
                "revision": card.revision,
                "files": [file.file for file in files],
                "bytes": sum(file.bytes for file in files),
            }
        )
    each = (f"  {row['model']} {row['revision']}  {size(row['bytes'])}  {', '.join(row['files'])}" for row in rows)
    lines = [str(cache.folder), *each, *([] if options.action == "list" else [f"{size(freed)} freed"])]
    return tell(options, {"home": str(cache.folder), "models": rows, "freed_bytes": freed}, lines, failed)
