"""`leap-zoo classify` and `embed`: photos in, classes or vectors out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from leap_zoo.cli.grammar import Commands, add_photos, at_least_one, load_model
from leap_zoo.cli.output import about, print_json, say
from leap_zoo.cli.photos import counts, report_counts, reporting, sources


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add("classify", _classify, "name what is in photos", "leap-zoo classify a.jpg b.jpg --top 3")
    add_photos(command)
    command.add_argument(
        "--top", type=at_least_one, default=5, metavar="N", help="how many classes (default: %(default)s)"
    )
    command.add_argument(
        "--head", help="which of the model's heads, or a file NAME.head of `leap-zoo fit` (default: the card's)"
    )
    command = commands.add("embed", _embed, "turn photos into vectors", "leap-zoo embed holiday/ --out holiday.npz")
    add_photos(command)
    command.add_argument("--space", choices=("student", "teacher"), default="student", help="default: student")
    command.add_argument("--out", type=Path, metavar="FILE.npz", help="write all embeddings to one file")


def _classify(options: argparse.Namespace) -> int:
    from leap_zoo.folders import find_photos, name_of, readable
    from leap_zoo.model import predict

    found = find_photos(*options.photos)
    several = len(found.photos) > 1
    model = load_model(options)
    head = model.find_head(options.head)
    rows: list[dict[str, Any]] = []
    read = 0
    with reporting(found, rows, prints=not options.json) as done:
        for number, row in readable(model, found.photos, sources(found), head.output, found, done):
            read += 1
            name = name_of(found.photos[number])
            answer = predict(head, row[None], options.top)[0]
            if options.json:
                rows.append(
                    {"photo": name, "predictions": answer, "unsure": answer.unsure, "distance": answer.distance}
                )
                continue
            if several:
                say(name)
            if answer.unsure:
                say("not sure: unlike the photos it learned from")
            for prediction in answer:
                say(f"{prediction.score:7.1%}  {prediction.label}")
    counted = counts(read, found.skipped)
    if options.json:
        print_json(about(model) | {"head": options.head or model.card.default_head} | counted | {"photos": rows})
    elif found.folders:
        report_counts(counted)
    return 2 if found.bad else 0


def _embed(options: argparse.Namespace) -> int:
    from leap_zoo.embeddings import check_suffix, embed_found
    from leap_zoo.folders import find_photos, name_of, readable
    from leap_zoo.model import output_of

    if options.out is not None:
        check_suffix(options.out)
    found = find_photos(*options.photos)
    model = load_model(options)
    rows: list[dict[str, Any]] = []
    saved: dict[str, Any] = {}
    with reporting(found, rows, prints=not options.json and options.out is None) as done:
        if options.out is not None:
            embedded = embed_found(model, found, options.space, sources(found), done)
            read = len(embedded.photos)
            if read:
                embedded.save(options.out)
            saved = {"file": str(options.out), "embeddings": read}
        else:
            read = 0
            for number, row in readable(model, found.photos, sources(found), output_of(options.space), found, done):
                read += 1
                name = name_of(found.photos[number])
                if options.json:
                    rows.append({"photo": name, "embedding": row.tolist()})
                else:
                    say(name, *(f"{value:.6g}" for value in row), sep="\t")
    counted = counts(read, found.skipped)
    if options.json:
        print_json(about(model) | {"space": options.space} | saved | counted | {"photos": rows})
    else:
        if saved and read:
            say(f"{read} embeddings of length {embedded.vectors.shape[1]} in {options.out}")
        if found.folders:
            report_counts(counted)
    return 2 if found.bad else 0
