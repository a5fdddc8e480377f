"""`leap-zoo classify` and `embed`: photos in, classes or vectors out."""

from __future__ import annotations

import argparse
from typing import Any

from leap_zoo.cli.bulk import add_engine, on_engine
from leap_zoo.cli.grammar import Commands, add_photos, at_least_one, load_model
from leap_zoo.cli.output import about, say
from leap_zoo.cli.photos import answer_each, reporting, sources, sum_up
from leap_zoo.embeddings import check_suffix, embed_found
from leap_zoo.errors import InvalidArgument
from leap_zoo.folders import find_photos, name_of, readable
from leap_zoo.model import Row, output_of, predict


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add("classify", _classify, "classify photos", "leap-zoo classify a.jpg b.jpg --top 3")
    add_photos(command)
    command.add_argument(
        "--top", type=at_least_one, default=5, metavar="N", help="number of classes to print (default: %(default)s)"
    )
    command.add_argument(
        "--head",
        help="one of the model's heads, or a NAME.head file from `leap-zoo fit` (default: the card's default head)",
    )
    command.add_argument("--out", metavar="FOLDER", help="with --engine ray: folder or URL of shards (best classes)")
    add_engine(command)
    command = commands.add("embed", _embed, "compute embeddings of photos", "leap-zoo embed holiday/ --out holiday.npz")
    add_photos(command)
    command.add_argument("--space", choices=("student", "teacher"), default="student", help="default: student")
    command.add_argument(
        "--out", metavar="FILE.npz", help="write all embeddings to one file; with --engine ray: FOLDER or URL of shards"
    )
    add_engine(command)


def _classify(options: argparse.Namespace) -> int:
    if options.engine == "ray":
        return on_engine(options, head=options.head or "")
    _check_local(options)
    if options.out is not None:
        raise InvalidArgument("--out belongs to --engine ray: use --json for all classes of each photo")
    found = find_photos(*options.photos)
    model = load_model(options)
    head = model.find_head(options.head)

    def answer(row: Row) -> tuple[dict[str, Any], list[str]]:
        best = predict(head, row[None], options.top)[0]
        doubt = ["not sure: unlike the training photos"] if best.unsure else []
        lines = [f"{one.score:7.1%}  {one.label}" for one in best]
        return {"predictions": best, "unsure": best.unsure, "distance": best.distance}, doubt + lines

    return answer_each(options, found, model, head.output, answer, head=options.head or model.card.default_head)


def _check_local(options: argparse.Namespace) -> None:
    if options.address or options.workers or options.source:
        raise InvalidArgument("--address, --workers and --from belong to --engine ray: add it, or leave them out")


def _embed(options: argparse.Namespace) -> int:
    if options.engine == "ray":
        return on_engine(options, space=options.space)
    _check_local(options)
    if options.out is not None:
        check_suffix(options.out)
    found = find_photos(*options.photos)
    model = load_model(options)
    rows: list[dict[str, Any]] = []
    saved: dict[str, Any] = {}
    read = 0
    with reporting(found, rows, prints=not options.json and options.out is None) as done:
        if options.out is not None:
            embedded = embed_found(model, found, options.space, sources(found), done)
            read = len(embedded.photos)
            saved = {"file": str(options.out), "embeddings": read}
        else:
            for number, row in readable(model, found.photos, sources(found), output_of(options.space), found, done):
                read += 1
                name = name_of(found.photos[number])
                if options.json:
                    rows.append({"photo": name, "embedding": row.tolist()})
                else:
                    say(name, *(f"{value:.6g}" for value in row), sep="\t")
    if saved and read:
        embedded.save(options.out)
        if not options.json:
            say(f"{read} embeddings of length {embedded.vectors.shape[1]} in {options.out}")
    said = about(model) | {"space": options.space} | saved
    sum_up(options, read, found.skipped, said, {"photos": rows}, walked=bool(found.folders))
    return 2 if found.bad else 0
