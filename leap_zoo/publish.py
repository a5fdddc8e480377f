"""From a model's folder, wherever it was made, into a zoo that a static host can serve."""

from __future__ import annotations

import os
from pathlib import Path

from leap_zoo import registry
from leap_zoo.atomic import atomic_file
from leap_zoo.card import MAX_DOCUMENT_BYTES, OTHER_FILES, ModelCard
from leap_zoo.documents import read_card, write_card
from leap_zoo.errors import InvalidArgument, InvalidCard, short
from leap_zoo.settings import zoo_folder
from leap_zoo.zoo import ModelFolder, read_inside


def publish_folder(folder: str | os.PathLike[str], zoo: str | os.PathLike[str]) -> ModelCard:
    """Check the model in `folder`, copy it into the zoo, made when it is not there, and list it in its index.

    Files of an earlier revision that the card no longer lists are removed from the zoo. The index is written last.
    Raises InvalidArgument, InvalidCard, ArtifactCorrupt.
    """
    source = Path(folder).absolute()
    place = zoo_folder(zoo).absolute()
    try:
        card = read_card(source / "card.json")
        registry.check_files(ModelFolder(source), card)
        home = place / card.id
        home.mkdir(parents=True, exist_ok=True)
        if not home.samefile(source):
            _copy(source, home, card)
        registry.publish(place, card)
        return card
    except OSError as error:
        where = short(error.filename or source)
        raise InvalidArgument(f"cannot publish ({where}: {error.strerror}): check the folders") from error


def _copy(source: Path, home: Path, card: ModelCard) -> None:
    model, earlier = ModelFolder(source), _listed(home / "card.json")
    others = {name: _optional(source, name) for name in OTHER_FILES}
    for published in card.files:
        _write(home / published.file, model.read(card, published))
    if write_card(home / "card.json", card) != others.pop("card.json") and others["model.sig"] is not None:
        raise InvalidCard(
            f"{short(source / 'card.json')} is signed, but not written as leap-zoo writes cards: publish it without "
            "model.sig, then leap-zoo sign the zoo"
        )
    for name, data in others.items():
        if data is None:
            (home / name).unlink(missing_ok=True)
        else:
            _write(home / name, data)
    for name in earlier - {file.file for file in card.files}:
        (home / name).unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)


def _listed(path: Path) -> set[str]:
    """The files of the revision that is there; none when there is none or it cannot be read any more."""
    try:
        return {file.file for file in read_card(path).files}
    except (OSError, InvalidCard):
        return set()


def _optional(source: Path, name: str) -> bytes | None:
    try:
        data = read_inside(source, source / name, MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        return None
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidArgument(f"{short(source / name)} is larger than {MAX_DOCUMENT_BYTES} bytes: remove it")
    return data
