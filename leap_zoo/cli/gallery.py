"""`leap-zoo index` and `search`: build a gallery of photos, and find similar photos in it."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from leap_zoo.cli.grammar import Commands, add_artifact, add_model, add_zoo, load_model, place
from leap_zoo.cli.output import about, say, tell
from leap_zoo.cli.photos import answer_each, refused, sum_up
from leap_zoo.errors import InvalidArgument, InvalidGallery, UnknownModel, short
from leap_zoo.folders import find_photos
from leap_zoo.gallery import Kind, can_query, open_gallery
from leap_zoo.gallery.indexing import index_photos
from leap_zoo.model import Model, Row, output_of

DEFAULT_GALLERY = "gallery"


def add(commands: Commands) -> None:
    """Declare the commands."""
    command = commands.add("index", _index, "embed photos into a gallery on disk", "leap-zoo index holiday/")
    command.add_argument("photos", nargs="*", metavar="PHOTO", help="a photo, or a folder of photos")
    command.add_argument(
        "--from", dest="vectors", type=place, metavar="PARQUET", help="load vectors: a file, or a folder or URL"
    )
    command.add_argument(
        "--quantize",
        choices=("int8", "binary"),
        help="with --from, on Qdrant: quantized vectors in memory, float on disk",
    )
    _add_gallery(command)
    add_model(command)
    add_artifact(command)
    command.add_argument("--space", choices=("student", "teacher"), default="student", help="default: student")
    command.add_argument(
        "--prune", action="store_true", help="remove photos from the gallery that no longer exist in the folders"
    )
    command = commands.add(
        "snapshot",
        _snapshot,
        "save or restore a Qdrant collection",
        "leap-zoo snapshot save photos.snapshot --gallery URL",
    )
    command.add_argument("action", choices=("save", "restore"))
    command.add_argument("file", type=place, metavar="FILE")
    command.add_argument("--gallery", required=True, type=place, metavar="URL", help="qdrant://HOST:PORT/COLLECTION")
    command = commands.add(
        "search",
        _search,
        "find the photos in a gallery that are most similar to a photo",
        "leap-zoo search photo.jpg -k 5",
    )
    command.add_argument("photos", nargs="+", metavar="PHOTO", help="a photo, a folder of photos, or - for stdin")
    _add_gallery(command)
    command.add_argument("--model", type=place, help="default: the gallery's own model")
    add_zoo(command)
    add_artifact(command)
    command.add_argument("-k", type=int, default=10, metavar="N", help="number of results (default: %(default)s)")
    command.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only photos with this metadata, e.g. label=cat; KEY:=VALUE for a number, true or false; repeatable",
    )


def _add_gallery(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--gallery",
        default=DEFAULT_GALLERY,
        type=place,
        metavar="PLACE",
        help="a folder, or qdrant://HOST:PORT/COLLECTION (default: the folder %(default)s, here)",
    )


def _index(options: argparse.Namespace) -> int:
    if options.vectors:
        return _index_vectors(options)
    if not options.photos or options.quantize:
        raise InvalidArgument("nothing to index: give photos or folders, or --from PARQUET (and perhaps --quantize)")
    if "-" in options.photos:
        raise InvalidArgument("a photo from stdin has no path to store: give files or folders")
    found = find_photos(*options.photos)
    if not any(map(os.path.lexists, found.photos)):  # checked before a gallery is created
        raise InvalidArgument(f"{short(found.photos[0])} does not exist: check the path")
    if options.prune and len(found.folders) != len(options.photos):
        raise InvalidArgument("--prune compares the gallery with folders: give folders only")
    model = load_model(options)
    is_new = not os.path.lexists(options.gallery)
    with open_gallery(options.gallery, model=model, space=options.space) as gallery:
        report = index_photos(gallery, model, found, prune=options.prune, progress=True)
        count = gallery.count()
        if is_new and not count:  # no photo could be read
            gallery.discard_if_empty()
    if not options.json:
        removed = f", {report.removed} removed" if options.prune else ""
        say(
            f"{report.added} embedded, {report.unchanged} unchanged{removed}; {count} photos in {options.gallery} "
            f"({model.card.id} {model.card.revision}, {options.space} space)"
        )
    numbers = {"added": report.added, "unchanged": report.unchanged, "removed": report.removed, "count": count}
    where = {"gallery": options.gallery, "space": options.space}
    said = about(model) | where | numbers
    return sum_up(options, found, report.added, said, {"bad": refused(found)})


def _index_vectors(options: argparse.Namespace) -> int:
    """Load the vectors of Parquet files into a gallery, and say how many."""
    from leap_zoo.gallery.bulk import load_vectors, quantize

    if options.photos or options.prune:
        raise InvalidArgument("--from takes vectors that are embedded already: leave out photos and --prune")
    kind = Kind.of(load_model(options), options.space) if options.model else None
    gallery, added = load_vectors(options.gallery, options.vectors, kind)
    with gallery:
        if options.quantize:
            quantize(gallery, options.quantize)
        count = gallery.count()
    document = {"gallery": options.gallery, "kind": gallery.kind, "added": added, "count": count}
    return tell(options, document, [f"{added} vectors added; {count} in {options.gallery} ({gallery.kind})"])


def _snapshot(options: argparse.Namespace) -> int:
    """Save or restore a collection."""
    from leap_zoo.gallery.bulk import restore_snapshot, save_snapshot

    file = Path(options.file)
    if options.action == "save":
        line = f"{save_snapshot(options.gallery, file)} bytes of {options.gallery} in {short(file)}"
    else:
        restore_snapshot(options.gallery, file)
        line = f"{options.gallery} is what {short(file)} holds"
    return tell(options, {"gallery": options.gallery, "file": options.file, "action": options.action}, [line])


def _search(options: argparse.Namespace) -> int:
    where = dict(_condition(text) for text in options.where)
    found = find_photos(*options.photos)
    with open_gallery(options.gallery, create=False) as gallery:
        model, space = _model_for(options, gallery.kind), gallery.kind.space

        def answer(name: str, row: Row) -> tuple[dict[str, Any], list[list[str]]]:
            hits = gallery.search(row, options.k, where)
            lines = [[f"{hit.score:7.4f}  {hit.metadata.get('path', hit.id)}"] for hit in hits]
            return {"hits": hits}, [[name], *lines] if len(found.photos) > 1 else lines

        return answer_each(options, found, model, output_of(space), answer, gallery=options.gallery, space=space)


def _model_for(options: argparse.Namespace, kind: Kind) -> Model:
    """The model that the user named, or else the gallery's own; for a teacher's gallery, the default model."""
    try:
        model = load_model(options, options.model or kind.model)
    except UnknownModel:
        if options.model or kind.space != "teacher":
            raise
        model = load_model(options)
    if not can_query(model, kind):
        raise InvalidGallery(
            f"the gallery holds embeddings of {kind}, which {model.card.id} {model.card.revision} cannot search: give "
            "the --model that it was made with, or index the photos again"
        )
    return model


def _condition(text: str) -> tuple[str, str | int | bool]:
    key, equals, value = text.partition("=")
    if not equals or not key.rstrip(":"):
        raise InvalidArgument(
            f"--where {short(text)} is not a condition: give KEY=VALUE, or KEY:=VALUE for a number, true or false"
        )
    if not key.endswith(":"):
        return key, value
    if value in ("true", "false"):
        return key[:-1], value == "true"
    if not re.fullmatch("-?[0-9]{1,19}", value):
        raise InvalidArgument(f"--where {short(text)} needs a whole number, true or false after :=")
    return key[:-1], int(value)
