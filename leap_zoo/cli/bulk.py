"""`leap-zoo embed|classify --engine ray`: many photos by an engine."""

from __future__ import annotations

import argparse
from typing import Any

from leap_zoo.cli.grammar import at_least_one
from leap_zoo.cli.output import complain, print_json, say
from leap_zoo.cli.pull import add_source
from leap_zoo.errors import InvalidArgument


def add_engine(command: argparse.ArgumentParser) -> None:
    """--engine and what belongs to it."""
    command.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on Ray Data, from folders, Parquet and tar files or URLs, into Parquet shards (default: local)",
    )
    ray = command.add_argument_group("with --engine ray")
    ray.add_argument("--address", help="of a Ray cluster; default: a Ray of its own on this machine")
    ray.add_argument("--workers", type=at_least_one, metavar="N", help="default: one per --threads cores")
    ray.add_argument("--shard", type=at_least_one, default=1000, metavar="N", help="photos per shard (default: 1000)")
    ray.add_argument("--column", metavar="NAME", help="of a Parquet input: the photo's bytes or path")
    ray.add_argument("--id-column", default="id", metavar="NAME", help="of a Parquet input (default: id)")
    add_source(ray)  # type: ignore[arg-type]


def on_engine(options: argparse.Namespace, **what: Any) -> int:
    """Embed or classify into the shards of a folder, and say how many. what: for `leap_zoo.ray.embed_photos`."""
    from leap_zoo.ray import Which, embed_photos
    from leap_zoo.shards import Columns

    if options.out is None:
        raise InvalidArgument("--engine ray writes Parquet shards: give --out FOLDER, or a URL of one")
    if options.providers or "-" in options.photos:
        raise InvalidArgument("--engine ray reads files and runs on the CPU: leave out - and --provider")
    which = Which(
        model=options.model,
        source=options.source,
        zoo=options.zoo,
        precision=options.precision,
        format=options.format,
        threads=options.threads or 1,
    )
    columns = Columns(options.column, options.id_column)
    done = embed_photos(
        options.photos,
        options.out,
        which,
        **what,
        columns=columns,
        rows=options.shard,
        address=options.address,
        workers=options.workers,
        progress=not options.json,
    )
    numbers = {"photos": done.photos, "bad": done.bad, "shards": done.parts, "kept": done.kept}
    for name, why in done.failed.items():
        complain(f"{name} is not written: {why}")
    if options.json:
        about = {"head": done.plan.head} if done.plan.head else {}
        print_json({"out": options.out, "kind": done.plan.kind, **about, **numbers, "failed": done.failed})
    else:
        say(
            f"{done.photos} photos in {done.parts} shards ({done.bad} could not be read) in {options.out}; "
            f"{done.kept} shards were there already"
        )
    return 2 if done.failed or done.bad else 0
