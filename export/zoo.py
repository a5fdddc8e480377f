"""`python -m export.zoo add|index|sign`: model folders in a zoo that any static host can serve. Needs no torch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from leap_zoo.card import Index, IndexEntry, ModelCard
from leap_zoo.documents import index_entry, read_document, read_index, write_card, write_index
from leap_zoo.errors import InvalidArgument, InvalidCard, LeapZooError, short
from leap_zoo.files import write_file
from leap_zoo.pull import pull
from leap_zoo.settings import zoo_folder
from leap_zoo.signing import NEW_KEY, alone, hashing, key_file, reason
from leap_zoo.store import ModelFolder, Zoo, ZooLocation


def publish(folder: ZooLocation, card: ModelCard) -> None:
    """Write `card` beside its files (which must lie in folder/<id>/ already) and list it in folder/index.json.

    The files are checked against the card first, so that a zoo never lists files that cannot be loaded. The index keeps
    its other models, sorted by id. A `model.sig` that belongs to another card is removed. Raises ArtifactCorrupt,
    InvalidCard.
    """
    place = Zoo(zoo_folder(folder))
    _check_files(place, card)
    home = place.folder / card.id
    before = read_document(home / "card.json") if (home / "card.json").exists() else None
    data = write_card(home / "card.json", card)
    if before != data:
        (home / "model.sig").unlink(missing_ok=True)
    _list(place.folder, [index_entry(card, data)])


def add(folder: str | os.PathLike[str], zoo: ZooLocation) -> ModelCard:
    """Check the model in `folder`, copy it into the zoo (creating the zoo if needed), and list it in its index.

    Files of an earlier revision that the card no longer lists are removed from the zoo. The index is written last.
    Raises InvalidArgument, InvalidCard, ArtifactCorrupt.
    """
    source, place = Path(folder).absolute(), zoo_folder(zoo).absolute()
    entry, card = _checked(ModelFolder(source))
    if not os.path.exists(place / card.id) or not os.path.samefile(place / card.id, source):
        pull(card.id, source, to=place, everything=True)
    _list(place, [entry])
    return card


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
    parser = argparse.ArgumentParser(prog="python -m export.zoo", description="A zoo that any static host can serve.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("add", "check a model's folder, copy it into a zoo, and list it"),
        ("index", "rebuild a zoo's index from its model folders"),
        ("sign", "sign a model's folder, or every model of a zoo"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        if name != "index":
            command.add_argument("folder", help="a model's folder" + (", or a zoo" if name == "sign" else ""))
        option = "--key" if name == "sign" else "--zoo"
        command.add_argument(option, required=True, metavar="PEM" if name == "sign" else "FOLDER")
    options = parser.parse_args(arguments)
    try:
        if options.command == "sign":
            for path in sign(options.folder, options.key):
                print(path)
            print("publish model.sig with the model, and your public key in a place that users trust", file=sys.stderr)
            return 0
        for card in [add(options.folder, options.zoo)] if options.command == "add" else reindex(options.zoo):
            print(f"{card.id} {card.revision}: {len(card.files)} files, all match the card")
    except (LeapZooError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
