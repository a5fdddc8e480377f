"""`leap-zoo classify` and `embed`: photos in, classes or vectors out; many photos by an engine."""

from __future__ import annotations

import argparse
from typing import Any

from leap_zoo.cli.grammar import Commands, add_photos, add_source, load_model, place
from leap_zoo.cli.output import about, say, tell
from leap_zoo.cli.photos import answer_each, refused, sources, sum_up
from leap_zoo.embeddings import SUFFIX, embed_found
from leap_zoo.errors import InvalidArgument, whole_number
from leap_zoo.files import new_file
from leap_zoo.folders import find_photos
from leap_zoo.model import Row, output_of, predict


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add("classify", _classify, "classify photos", "leap-zoo classify a.jpg b.jpg --top 3")
    add_photos(command)
    command.add_argument(
        "--top", type=int, default=5, metavar="N", help="number of classes to print (default: %(default)s)"
    )
    command.add_argument(
        "--head",
        type=place,
        help="one of the model's heads, or a NAME.head file from `leap-zoo fit` (default: the card's default head)",
    )
    command.add_argument(
        "--out", type=place, metavar="FOLDER", help="with --engine ray: folder or URL of shards (best classes)"
    )
    _add_engine(command)
    command = commands.add("embed", _embed, "compute embeddings of photos", "leap-zoo embed holiday/ --out holiday.npz")
    add_photos(command)
    command.add_argument("--space", choices=("student", "teacher"), default="student", help="default: student")
    command.add_argument(
        "--out",
        type=place,
        metavar="FILE.npz",
        help="write all embeddings to one file; with --engine ray: FOLDER or URL of shards",
    )
    _add_engine(command)


def _classify(options: argparse.Namespace) -> int:
    if options.engine == "ray":
        return _on_engine(options, head=options.head or "")
    whole_number(options.top, "--top")
    _check_local(options)
    if options.out is not None:
        raise InvalidArgument("--out belongs to --engine ray: use --json for all classes of each photo")
    found = find_photos(*options.photos)
    model = load_model(options)
    head = model.find_head(options.head)

    def answer(name: str, row: Row) -> tuple[dict[str, Any], list[list[str]]]:
        best = predict(head, row[None], options.top)[0]
        lines = [[name]] if len(found.photos) > 1 else []
        lines += [["not sure: unlike the training photos"]] if best.unsure else []
        lines += [[f"{one.score:7.1%}  {one.label}"] for one in best]
        return {"predictions": best, "unsure": best.unsure, "distance": best.distance}, lines

    return answer_each(options, found, model, head.output, answer, head=options.head or model.card.default_head)


def _check_local(options: argparse.Namespace) -> None:
    if options.address or options.workers or options.source:
        raise InvalidArgument("--address, --workers and --from belong to --engine ray: add it, or leave them out")


def _embed(options: argparse.Namespace) -> int:
    if options.engine == "ray":
        return _on_engine(options, space=options.space)
    _check_local(options)
    if options.out is not None:
        new_file(options.out, SUFFIX)
    found = find_photos(*options.photos)
    model = load_model(options)
    if options.out is None:

        def answer(name: str, row: Row) -> tuple[dict[str, Any], list[list[str]]]:
            return {"embedding": row.tolist()}, [[name, *(f"{value:.6g}" for value in row)]]

        return answer_each(options, found, model, output_of(options.space), answer, space=options.space)
    embedded = embed_found(model, found, options.space, sources(found), progress=True)
    read = len(embedded.photos)
    if read:
        embedded.save(options.out)
        if not options.json:
            say(f"{read} embeddings of length {embedded.vectors.shape[1]} in {options.out}")
    said = about(model) | {"space": options.space, "file": str(options.out), "embeddings": read}
    return sum_up(options, found, read, said, {"photos": refused(found)})


def _add_engine(command: argparse.ArgumentParser) -> None:
    """--engine and what belongs to it."""
    command.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on Ray Data, from folders, Parquet and tar files or URLs, into Parquet shards (default: local)",
    )
    ray = command.add_argument_group("with --engine ray")
    ray.add_argument("--address", help="of a Ray cluster; default: a Ray of its own on this machine")
    ray.add_argument("--workers", type=int, metavar="N", help="default: one per --threads cores")
    ray.add_argument("--shard", type=int, default=1000, metavar="N", help="photos per shard (default: 1000)")
    ray.add_argument("--column", metavar="NAME", help="of a Parquet input: the photo's bytes or path")
    ray.add_argument("--id-column", default="id", metavar="NAME", help="of a Parquet input (default: id)")
    add_source(ray)


def _on_engine(options: argparse.Namespace, **what: Any) -> int:
    """Embed or classify into the shards of a folder, and say how many. what: for `leap_zoo.ray.embed_photos`."""
    from leap_zoo.ray import Which, embed_photos
    from leap_zoo.shards import Columns

    if options.out is None:
        raise InvalidArgument("--engine ray writes Parquet shards: give --out FOLDER, or a URL of one")
    if options.providers or "-" in options.photos:
        raise InvalidArgument("--engine ray reads files and runs on the CPU: leave out - and --provider")
    whole_number(options.shard, "--shard")
    if options.workers is not None:
        whole_number(options.workers, "--workers")
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
    about = {"head": done.plan.head} if done.plan.head else {}
    document = {"out": options.out, "kind": done.plan.kind, **about, **numbers, "failed": done.failed}
    line = (
        f"{done.photos} photos in {done.parts} shards ({done.bad} could not be read) in {options.out}; "
        f"{done.kept} shards were there already"
    )
    code = tell(options, document, [line], [f"{name} is not written: {why}" for name, why in done.failed.items()])
    return 2 if done.bad else code
