"""`leap-zoo classify` and `embed`: photos in, classes or vectors out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leap_zoo.cli.grammar import Commands, add_photos, at_least_one, load_model
from leap_zoo.cli.output import about, print_json, say
from leap_zoo.cli.photos import each_photo, report_counts

if TYPE_CHECKING:
    from leap_zoo.folders import Row


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
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="write all embeddings to one file: FILE.npz or FILE.parquet"
    )


def _classify(options: argparse.Namespace) -> int:
    from leap_zoo.folders import find_photos
    from leap_zoo.model import predict

    found = find_photos(*options.photos)
    several = len(found.photos) > 1
    model = load_model(options)
    head = model.find_head(options.head)
    rows: list[dict[str, Any]] = []

    def one(row: Row, name: str) -> None:
        predictions = predict(head, row[None], options.top)[0]
        if options.json:
            doubt = {"unsure": predictions.unsure, "distance": predictions.distance}
            rows.append({"photo": name, "predictions": predictions} | doubt)
            return
        if several:
            say(name)
        if predictions.unsure:
            say("not sure: unlike the photos it learned from")
        for prediction in predictions:
            say(f"{prediction.score:7.1%}  {prediction.label}")

    counted = each_photo(model, found, head.output, one, rows, prints=not options.json)
    if options.json:
        print_json(about(model) | {"head": options.head or model.card.default_head} | counted | {"photos": rows})
    elif found.folders:
        report_counts(counted)
    return 2 if found.bad else 0


def _embed(options: argparse.Namespace) -> int:
    from leap_zoo.embeddings import Embeddings, check_suffix
    from leap_zoo.folders import find_photos
    from leap_zoo.model import output_of

    if options.out is not None:
        check_suffix(options.out)
    found = find_photos(*options.photos)
    model = load_model(options)
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    vectors: list[Row] = []

    def one(row: Row, name: str) -> None:
        if options.out is not None:
            names.append(name)
            vectors.append(row)
        elif options.json:
            rows.append({"photo": name, "embedding": row.tolist()})
        else:
            say(name, *(f"{value:.6g}" for value in row), sep="\t")

    prints = not options.json and options.out is None
    counted = each_photo(model, found, output_of(options.space), one, rows, prints=prints)
    if vectors:
        Embeddings.of(model.card, options.space, names, vectors, found.bad).save(options.out)
        if not options.json:
            say(f"{len(names)} embeddings of length {len(vectors[0])} in {options.out}")
    if options.json:
        saved = {} if options.out is None else {"file": str(options.out), "embeddings": len(names)}
        print_json(about(model) | {"space": options.space} | saved | counted | {"photos": rows})
    elif found.folders:
        report_counts(counted)
    return 2 if found.bad else 0
