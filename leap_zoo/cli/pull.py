"""`leap-zoo pull` and `cache`: models from elsewhere, and what of them is on this device."""

from __future__ import annotations

import argparse

from leap_zoo.cli.grammar import Commands
from leap_zoo.cli.output import print_json, say, size


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add(
        "pull",
        _pull,
        "fetch a model from a server, a hub or a folder",
        "leap-zoo pull leap-tiny --from https://example.org/zoo --precision fp32",
    )
    command.add_argument("model", help="a model of that zoo")
    command.add_argument(
        "--from",
        dest="source",
        metavar="URL_OR_FOLDER",
        help="http(s)://, hf://org/repo or a folder; default: LEAP_ZOO_URL",
    )
    which = command.add_mutually_exclusive_group()
    which.add_argument("--file", metavar="NAME", help="the artifact that has this file")
    which.add_argument("--all", dest="everything", action="store_true", help="every artifact")
    command.add_argument("--precision", choices=("int8", "fp16", "fp32"), help="default: what load would choose")
    command.add_argument("--format", choices=("onnx", "openvino"), help="default: what load would choose")
    command = commands.add("cache", _cache, "list what was pulled, or tidy it", "leap-zoo cache --prune")
    command.add_argument("--prune", action="store_true", help="remove what no pulled model lists")


def _pull(options: argparse.Namespace) -> int:
    from leap_zoo.pull import pull

    pulled = pull(
        options.model,
        options.source,
        precision=options.precision,
        format=options.format,
        file=options.file,
        everything=options.everything,
        shown=True,
    )
    if options.json:
        return print_json(pulled)
    say(f"{pulled.model} {pulled.revision} from {pulled.source}" + (", signed" if pulled.signed else ""))
    for file in pulled.files:
        here = "" if file.downloaded else "  (was here)"
        say(f"  {file.file}  {size(file.bytes)}  sha256 {file.sha256}{here}")
        say(f"    {file.path}")
    say(f"sizes and sha256 are those of the card; to see that it works here: leap-zoo verify {pulled.model}")
    return 0


def _cache(options: argparse.Namespace) -> int:
    from leap_zoo.cache import Cache, CachedZoo
    from leap_zoo.settings import read_settings

    cache = Cache(read_settings().home)
    zoo = CachedZoo(cache)
    freed = cache.prune() if options.prune and zoo.exists() else 0
    rows = []
    for entry in zoo.index().models:
        card = zoo.card(entry)
        files = [file.file for artifact in card.artifacts if zoo.holds(card, artifact) for file in artifact.files]
        rows.append({"model": card.id, "revision": card.revision, "files": files})
    if options.json:
        return print_json({"home": str(cache.home), "models": rows, "freed_bytes": freed})
    say(cache.home)
    for row in rows:
        say(f"  {row['model']} {row['revision']}  {', '.join(row['files'])}")
    if options.prune:
        say(f"{size(freed)} freed")
    return 0
