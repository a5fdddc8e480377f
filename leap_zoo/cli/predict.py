"""`leap-zoo classify` and `embed`: photos in, classes or vectors out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leap_zoo.cli.grammar import Commands, add_photos, at_least_one
from leap_zoo.cli.output import about, print_json
from leap_zoo.cli.photos import each_photo, expand
from leap_zoo.errors import InvalidArgument, short

if TYPE_CHECKING:
    from leap_zoo.model import Model


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add("classify", _classify, "name what is in photos", "leap-zoo classify a.jpg b.jpg --top 3")
    add_photos(command)
    command.add_argument(
        "--top", type=at_least_one, default=5, metavar="N", help="how many classes (default: %(default)s)"
    )
    command.add_argument("--head", help="which of the model's heads (default: the card's)")
    command = commands.add("embed", _embed, "turn photos into vectors", "leap-zoo embed holiday/ --out holiday.npz")
    add_photos(command)
    command.add_argument("--space", choices=("student", "teacher"), default="student", help="default: student")
    command.add_argument("--out", type=Path, metavar="FILE.npz", help="write all embeddings to one file")


def _load(options: argparse.Namespace) -> Model:
    from leap_zoo.model import load

    return load(
        options.model,
        zoo=options.zoo,
        precision=options.precision,
        format=options.format,
        threads=options.threads,
    )


def _classify(options: argparse.Namespace) -> int:
    photos = list(expand(options.photos))
    model = _load(options)
    head = options.head or model.card.default_head
    rows: list[dict[str, Any]] = []

    def one(source: str | bytes, name: str) -> None:
        predictions = model.classify(source, top=options.top, head=head)
        if options.json:
            rows.append({"photo": name, "predictions": predictions})
            return
        if len(photos) > 1:
            print(name)
        for prediction in predictions:
            print(f"{prediction.score:7.1%}  {prediction.label}")

    bad = each_photo(photos, one, rows, prints=not options.json)
    if options.json:
        print_json(about(model) | {"head": head, "photos": rows})
    return 2 if bad else 0


def _embed(options: argparse.Namespace) -> int:
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise InvalidArgument(f"--out {short(options.out)}: its folder does not exist: create it first")
    photos = list(expand(options.photos))
    model = _load(options)
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    embeddings: list[Any] = []

    def one(source: str | bytes, name: str) -> None:
        embedding = model.embed(source, space=options.space)
        if options.out is not None:
            names.append(name)
            embeddings.append(embedding)
        elif options.json:
            rows.append({"photo": name, "embedding": embedding.tolist()})
        else:
            print(name, *(f"{value:.6g}" for value in embedding), sep="\t")

    bad = each_photo(photos, one, rows, prints=not options.json and options.out is None)
    if options.out is not None and embeddings:
        _save_embeddings(options.out, model, options.space, names, embeddings)
        if not options.json:
            print(f"{len(names)} embeddings of length {len(embeddings[0])} in {options.out}")
    if options.json:
        saved = {} if options.out is None else {"file": str(options.out), "embeddings": len(names)}
        print_json(about(model) | {"space": options.space} | saved | {"photos": rows})
    return 2 if bad else 0


def _save_embeddings(path: Path, model: Model, space: str, names: list[str], embeddings: list[Any]) -> None:
    """npz: `embeddings` float32 (N, D), `photos` (N,), and which model and space they belong to."""
    import numpy as np

    try:
        with path.open("wb") as file:  # np.savez would append .npz to a name without it
            np.savez(
                file,
                embeddings=np.stack(embeddings),
                photos=np.array(names),
                model=np.array(model.card.id),
                revision=np.array(model.card.revision),
                space=np.array(space),
            )
    except OSError as error:
        raise InvalidArgument(f"--out {short(path)} cannot be written ({error.strerror}): choose another") from error
