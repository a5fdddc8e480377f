"""`python -m export.zoo add|index|sign`: model folders in a zoo that any static host can serve. Needs no torch."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from export.golden import golden_bytes
from leap_zoo.card import Index, IndexEntry, ModelCard
from leap_zoo.documents import index_entry, read_document, read_index, write_card, write_index
from leap_zoo.errors import InvalidArgument, InvalidCard, LeapZooError, nearest, short
from leap_zoo.files import write_file
from leap_zoo.pull import pull
from leap_zoo.settings import zoo_folder
from leap_zoo.signing import NEW_KEY, alone, hashing, key_file, reason
from leap_zoo.store import ModelFolder, Zoo, ZooLocation
from leap_zoo.verify import read_golden

TIMM = "model.safetensors"  # stands for all files that timm reads


def publish(folder: ZooLocation, card: ModelCard) -> None:
    """`list_card`, after checking the card's files, which must lie in folder/<id>/ already.

    So a zoo never lists files that cannot be loaded. Raises ArtifactCorrupt, InvalidCard.
    """
    place = Zoo(zoo_folder(folder))
    _check_files(place, card)
    list_card(place.folder, card)


def list_card(zoo: Path, card: ModelCard) -> None:
    """Write `card` beside its files and list it in the zoo's index, which keeps its other models, sorted by id.

    A `model.sig` that belongs to another card is removed. Raises InvalidCard.
    """
    home = zoo / card.id
    before = read_document(home / "card.json") if (home / "card.json").exists() else None
    with _unlisted(zoo, card.id):
        data = write_card(home / "card.json", card)
        if before != data:
            (home / "model.sig").unlink(missing_ok=True)
        _list(zoo, [index_entry(card, data)])


def add(folder: str | os.PathLike[str], zoo: ZooLocation, files: Collection[str] = ()) -> ModelCard:
    """Check the model in `folder`, copy it into the zoo (creating the zoo if needed), and list it in its index.

    files: only these artifacts, with a card and golden outputs for them; `model.safetensors` stands for all files that
    timm reads. Files of an earlier revision that the card no longer lists are removed. The index is written last.
    Raises InvalidArgument, InvalidCard, ArtifactCorrupt.
    """
    source, place = Path(folder).absolute(), zoo_folder(zoo).absolute()
    entry, card = _checked(ModelFolder(source))
    if files:
        return _add_part(ModelFolder(source), card, place, files)
    if (place / card.id).exists() and (place / card.id).samefile(source):
        _list(place, [entry])
    else:
        with _unlisted(place, card.id):
            pull(card.id, source, to=place, everything=True)
            _list(place, [entry])
    return card


def _add_part(source: ModelFolder, card: ModelCard, zoo: Path, files: Collection[str]) -> ModelCard:
    from export import readme  # needs Jinja2; the other functions do not

    known = [artifact.file for artifact in card.artifacts] + [TIMM] * bool(card.timm)
    for name in files:
        if name not in known:
            raise InvalidArgument(f"{card.id} has no artifact {name!r}{nearest(name, known)}")
    kept = [artifact for artifact in card.artifacts if artifact.file in files]
    golden = read_golden(source.read(card, card.golden))
    content = golden_bytes({name: v for name, v in golden.items() if name.partition("/")[0] in ("image", *files)})
    part = replace(
        card,
        artifacts=kept,
        timm=card.timm if TIMM in files else [],
        latency=[row for row in card.latency if row.file in files],
        golden=replace(card.golden, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()),
    )
    zoo.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=zoo, prefix=".staging-") as staging:
        home = Path(staging) / card.id
        home.mkdir()
        for file in part.files:
            (home / file.file).write_bytes(content if file == part.golden else source.read(card, file))
        readme.write(part, home)
        move(part, Path(staging), zoo)
    return part


def move(card: ModelCard, staging: Path, zoo: Path) -> None:
    """Replace the model's folder in the zoo with the one in `staging` (on the same disk), then list the card.

    A failure brings the old model back.
    """
    home, old = zoo / card.id, staging / ".old"
    with _unlisted(zoo, card.id):
        if home.exists():
            os.replace(home, old)
        try:
            os.replace(staging / card.id, home)
            list_card(zoo, card)
        except BaseException:
            if old.exists():
                shutil.rmtree(home, ignore_errors=True)
                os.replace(old, home)
            raise


@contextmanager
def _unlisted(zoo: Path, model: str) -> Iterator[None]:
    """Leave a model out of the index while its files change; an error lists it again.

    So all models that a zoo lists are complete, for a reader in between and after a process was killed.
    """
    index = zoo / "index.json"
    before = read_document(index) if index.exists() else None
    if before is not None:
        write_index(index, Index(models=[entry for entry in read_index(index).models if entry.id != model]))
    try:
        yield
    except BaseException:
        if before is not None:
            write_file(index, before)
        raise


def reindex(folder: ZooLocation) -> list[ModelCard]:
    """Rebuild folder/index.json from the model folders there, after checking each one; return their cards.

    Raises InvalidArgument if there are no model folders; ArtifactCorrupt, InvalidCard; the index is then left
    unchanged.
    """
    place = zoo_folder(folder)
    found = [(path.parent.name, *_checked(ModelFolder(path.parent))) for path in sorted(place.glob("*/card.json"))]
    if not found:
        raise InvalidArgument(f"{short(place)} contains no model folders: give a zoo's folder")
    for name, _, card in found:
        if card.id != name:
            raise InvalidCard(
                f"{short(place / name)} contains {card.id}, but has another name: rename the folder to {card.id}"
            )
    _list(place, [entry for _, entry, _ in found], alone=True)
    return [card for _, _, card in found]


def sign(folder: str | os.PathLike[str], key: str | os.PathLike[str]) -> list[Path]:
    """Sign the model in `folder`, or every model if it is a zoo, after checking the files.

    Returns the signatures' paths. key: a PEM file with an elliptic curve private key (P-256, P-384 or P-521), not
    encrypted. Raises InvalidArgument, InvalidCard, ArtifactCorrupt, MissingExtra.
    """
    private_key, folder = key_file(key), Path(folder).absolute()
    place = Zoo(folder) if os.path.isfile(folder / "index.json") else ModelFolder(folder)
    signatures = []
    for entry in place.index().models:
        _checked(place, entry.id)
        signatures.append(place.path(entry.id, "model.sig", entry.sha256))
        write_file(signatures[-1], _signature(entry.id, place.card_bytes(entry), private_key))
    return signatures


def _signature(model: str, card: bytes, private_key: Path) -> bytes:
    from model_signing import signing

    with alone(model, card) as (folder, path):
        try:
            config = signing.Config().set_hashing_config(hashing())
            config.use_elliptic_key_signer(private_key=private_key).sign(folder, path)
        except Exception as error:
            raise InvalidArgument(
                f"cannot sign with {short(private_key)} ({reason(error)}): give an unencrypted private key; {NEW_KEY}"
            ) from error
        return path.read_bytes()


def _checked(place: Zoo, model: str | None = None) -> tuple[IndexEntry, ModelCard]:
    entry = place.entry(model)
    card = place.card(entry)
    _check_files(place, card)
    return entry, card


def _check_files(place: Zoo, card: ModelCard) -> None:
    for published in card.files:
        place.read(card, published)


def _list(zoo: Path, entries: list[IndexEntry], *, alone: bool = False) -> None:
    """Write the index with `entries`, keeping the entries of other models unless `alone`."""
    path, ids = zoo / "index.json", {entry.id for entry in entries}
    if path.exists() and not alone:
        entries = [*entries, *(entry for entry in read_index(path).models if entry.id not in ids)]
    write_index(path, Index(models=sorted(entries, key=lambda entry: entry.id)))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 for a mistake that the user can fix."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "sign":
            for path in sign(options.folder, options.key):
                print(path)
            print("publish model.sig with the model, and your public key in a place that users trust", file=sys.stderr)
            return 0
        listed = (
            reindex(options.zoo) if options.command == "index" else [add(options.folder, options.zoo, options.file)]
        )
        for card in listed:
            print(f"{card.id} {card.revision}: {len(card.files)} files, all match the card")
    except (LeapZooError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.zoo", description="A zoo that any static host can serve.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = "check a model's folder, copy it into a zoo, and list it"
    command = commands.add_parser("add", help=about, description=about)
    command.add_argument("folder", help="a model's folder")
    command.add_argument("--zoo", required=True, metavar="FOLDER")
    command.add_argument(
        "--file", action="append", default=[], metavar="NAME", help="only this file of the model (may be repeated)"
    )
    about = "rebuild a zoo's index from its model folders"
    command = commands.add_parser("index", help=about, description=about)
    command.add_argument("--zoo", required=True, metavar="FOLDER")
    about = "sign a model's folder, or every model of a zoo"
    command = commands.add_parser("sign", help=about, description=about)
    command.add_argument("folder", help="a model's folder, or a zoo")
    command.add_argument("--key", required=True, metavar="PEM")
    return parser


if __name__ == "__main__":
    sys.exit(main())
