"""Publish a model into a zoo that any static host can serve: check it, copy it, list it in index.json."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from leap_zoo.card import OTHER_FILES, File, Index, IndexEntry, ModelCard
from leap_zoo.documents import index_entry, read_card, read_document, read_index, write_card, write_index
from leap_zoo.errors import InvalidArgument, InvalidCard, short
from leap_zoo.files import atomic_file
from leap_zoo.settings import zoo_folder
from leap_zoo.store import ModelFolder, Zoo, ZooLocation


def publish(folder: ZooLocation, card: ModelCard) -> None:
    """Write `card` beside its files (which must lie in folder/<id>/ already) and list it in folder/index.json.

    The files are checked against the card first, so that a zoo never lists files that cannot be loaded. The index keeps
    its other models, sorted by id. A `model.sig` that belongs to another card is removed. Raises ArtifactCorrupt,
    InvalidCard.
    """
    place = Zoo(zoo_folder(folder))
    check_files(place, card)
    home = place.folder / card.id
    before = read_document(home / "card.json") if (home / "card.json").exists() else None
    data = write_card(home / "card.json", card)
    if before != data:
        (home / "model.sig").unlink(missing_ok=True)
    _list(place.folder, [index_entry(card, data)])


def publish_folder(folder: str | os.PathLike[str], zoo: ZooLocation) -> ModelCard:
    """Check the model in `folder`, copy it into the zoo (creating the zoo if needed), and list it in its index.

    Files of an earlier revision that the card no longer lists are removed from the zoo. The index is written last.
    Raises InvalidArgument, InvalidCard, ArtifactCorrupt.
    """
    source, place = ModelFolder(Path(folder).absolute()), zoo_folder(zoo).absolute()
    entry, card = checked(source)
    try:
        if not os.path.exists(place / card.id) or not os.path.samefile(place / card.id, source.folder):
            others = {name: source.other(entry, name) for name in OTHER_FILES}
            write_folder(place, source, card, card.files, others)
        _list(place, [entry])
        return card
    except OSError as error:
        where = short(error.filename or source.folder)
        raise InvalidArgument(f"cannot publish ({where}: {error.strerror}): check the folders") from error


def reindex(folder: ZooLocation) -> list[ModelCard]:
    """Rebuild folder/index.json from the model folders there, after checking each one; return their cards.

    Raises InvalidArgument if there are no model folders; ArtifactCorrupt, InvalidCard; the index is then left
    unchanged.
    """
    place = zoo_folder(folder)
    found = [(path.parent.name, *checked(ModelFolder(path.parent))) for path in sorted(place.glob("*/card.json"))]
    if not found:
        raise InvalidArgument(f"{short(place)} contains no model folders: give a zoo's folder")
    for name, _, card in found:
        if card.id != name:
            raise InvalidCard(
                f"{short(place / name)} contains {card.id}, but has another name: rename the folder to {card.id}"
            )
    _list(place, [entry for _, entry, _ in found], alone=True)
    return [card for _, _, card in found]


def checked(place: Zoo, model: str | None = None) -> tuple[IndexEntry, ModelCard]:
    """Check all files of a model; returns its index entry and card.

    Raises ArtifactCorrupt, InvalidCard, UnknownModel.
    """
    entry = place.entry(model)
    card = place.card(entry)
    check_files(place, card)
    return entry, card


def check_files(place: Zoo, card: ModelCard) -> None:
    """Check every file that `card` lists. Raises ArtifactCorrupt."""
    for published in card.files:
        place.read(card, published)


def write_folder(
    to: Path, place: Zoo, card: ModelCard, files: Iterable[File], others: Mapping[str, bytes | None]
) -> ModelFolder:
    """Write `files` of `place` and `others` (by name; None: absent) to to/<id>/; a new folder is all or nothing.

    Files of an earlier revision are removed; unrelated files stay. Raises OSError, ArtifactCorrupt, and InvalidArgument
    if the folder exists but is not a model's.
    """
    home, staging = to / card.id, to / f".{card.id}-{secrets.token_hex(8)}"
    if os.path.lexists(home) and (not home.is_dir() or (not (home / "card.json").exists() and any(home.iterdir()))):
        raise InvalidArgument(f"{short(home)} exists and is not a model's folder: remove it, or choose another place")
    staging.mkdir(parents=True)
    try:
        for name, data in others.items():
            if data is not None:
                _write(staging / name, data)
        for file in files:
            _write(staging / file.file, place.read(card, file))
        if home.exists():
            _replace(staging, home, card)
        else:
            os.rename(staging, home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ModelFolder(home)


def _replace(staging: Path, home: Path, card: ModelCard) -> None:
    """Move the new files over the old ones, the card last, and remove old files that it does not list."""
    ours, stale = {file.file: file.sha256 for file in card.files}, set(OTHER_FILES)
    with contextlib.suppress(OSError, InvalidCard):
        stale |= {file.file for file in read_card(home / "card.json").files if ours.get(file.file) != file.sha256}
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "card.json"):
        os.replace(path, home / path.name)
        stale.discard(path.name)
    for name in stale:
        (home / name).unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)


def _list(zoo: Path, entries: list[IndexEntry], *, alone: bool = False) -> None:
    """Write the index with `entries`, keeping the entries of other models unless `alone`."""
    path, ids = zoo / "index.json", {entry.id for entry in entries}
    if path.exists() and not alone:
        entries = [*entries, *(entry for entry in read_index(path).models if entry.id not in ids)]
    write_index(path, Index(models=sorted(entries, key=lambda entry: entry.id)))
