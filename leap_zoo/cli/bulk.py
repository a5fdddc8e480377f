"""`leap-zoo embed|classify --engine ray` and `index --from`: many photos by an engine; vectors into a gallery."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from leap_zoo.cli.grammar import at_least_one
from leap_zoo.cli.output import complain, print_json, say
from leap_zoo.cli.pull import add_source
from leap_zoo.errors import InvalidArgument, short


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


def index_vectors(options: argparse.Namespace) -> int:
    """Load the vectors of Parquet files into a gallery, and say how many."""
    from leap_zoo.cli.grammar import load_model
    from leap_zoo.gallery import Kind
    from leap_zoo.gallery.bulk import load_vectors, quantize

    if options.photos or options.prune:
        raise InvalidArgument("--from takes vectors that are embedded already: leave out photos and --prune")
    kind = Kind.of(load_model(options), options.space) if options.model else None
    gallery, added = load_vectors(options.gallery, options.vectors, kind)
    with gallery:
        if options.quantize:
            quantize(gallery, options.quantize)
        count = gallery.count()
    numbers: dict[str, Any] = {"added": added, "count": count}
    if options.json:
        return print_json({"gallery": options.gallery, "kind": gallery.kind, **numbers})
    say(f"{added} vectors added; {count} in {options.gallery} ({gallery.kind})")
    return 0


def snapshot(options: argparse.Namespace) -> int:
    """Save or restore a collection."""
    from leap_zoo.gallery.bulk import restore_snapshot, save_snapshot

    file = Path(options.file)
    if options.action == "save":
        size = save_snapshot(options.gallery, file)
        say(f"{size} bytes of {options.gallery} in {short(file)}")
    else:
        restore_snapshot(options.gallery, file)
        say(f"{options.gallery} is what {short(file)} holds")
    return 0
