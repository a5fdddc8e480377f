"""Where models come from: the zoos that `load` looks in, and how a model gets into a zoo's index."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from leap_zoo.cache import Cache, CachedZoo
from leap_zoo.card import Index, IndexEntry, ModelCard
from leap_zoo.documents import index_entry, read_card, read_document, read_index, write_card, write_index
from leap_zoo.errors import InvalidArgument, InvalidCard, UnknownModel, nearest, short
from leap_zoo.settings import read_settings, zoo_folder
from leap_zoo.zoo import BUNDLED, Zoo

__all__ = ["BUNDLED", "Zoo", "ZooLocation", "check_files", "find", "models", "publish", "reindex", "zoos"]

ZooLocation = str | os.PathLike[str]


def zoos(zoo: ZooLocation | None = None) -> list[Zoo]:
    """The zoos to look in, in order: `zoo` alone when given, else LEAP_ZOO_URL's folder, what was pulled, the bundled.

    None of them is on the network: what a server has is pulled first. Raises InvalidArgument, UnknownModel.
    """
    if zoo is not None:
        return [Zoo(zoo_folder(zoo))]
    settings = read_settings()
    found = [Zoo(settings.zoo)] if settings.zoo is not None else []
    pulled = CachedZoo(Cache(settings.home))
    if pulled.exists():
        found.append(pulled)
    if (BUNDLED / "index.json").is_file():
        found.append(Zoo(BUNDLED))
    if not found:
        raise UnknownModel(
            "this installation has no bundled model: give zoo=FOLDER, set LEAP_ZOO_URL, leap-zoo pull one, or "
            "reinstall leap-zoo"
        )
    return found


def find(name: str, zoo: ZooLocation | None = None) -> tuple[Zoo, ModelCard]:
    """The first zoo that lists `name`, and the model's card. Raises UnknownModel with the nearest names."""
    return next(find_all(name, zoo))


def find_all(name: str, zoo: ZooLocation | None = None) -> Iterator[tuple[Zoo, ModelCard]]:
    """The zoos that list `name`, one after the other as they are asked for. Raises UnknownModel when there is none."""
    known: list[str] = []
    found = False
    for place in zoos(zoo):
        for entry in place.index().models:
            if entry.id == name:
                found = True
                yield place, place.card(entry)
            known.append(entry.id)
    if not found:
        url = read_settings().url if zoo is None else None
        elsewhere = "" if url is None else f"; to look on the server: leap-zoo pull MODEL --from {url}"
        raise UnknownModel(f"unknown model {short(name)}{nearest(str(name), known)}{elsewhere}")


def models(zoo: ZooLocation | None = None) -> list[ModelCard]:
    """The cards of all models that `load` would find, in the order of the indices."""
    cards: dict[str, ModelCard] = {}
    for place in zoos(zoo):
        for entry in place.index().models:
            if entry.id not in cards:
                cards[entry.id] = place.card(entry)
    return list(cards.values())


def publish(folder: ZooLocation, card: ModelCard) -> None:
    """Write `card` beside its files (which must lie in folder/<id>/ already) and list it in folder/index.json.

    The files are checked against the card first, so a zoo never lists what cannot be loaded. The index keeps its other
    models, sorted by id. A `model.sig` of another card is removed. Raises ArtifactCorrupt, InvalidCard.
    """
    place = Zoo(zoo_folder(folder))
    check_files(place, card)
    home = place.folder / card.id
    before = read_document(home / "card.json") if (home / "card.json").exists() else None
    data = write_card(home / "card.json", card)
    if before != data:
        (home / "model.sig").unlink(missing_ok=True)
    path = place.folder / "index.json"
    others = [entry for entry in read_index(path).models if entry.id != card.id] if path.exists() else []
    _write_index(path, [*others, index_entry(card, data)])


def reindex(folder: ZooLocation) -> list[ModelCard]:
    """Write folder/index.json anew from the model folders that are there, each checked; returns their cards.

    Raises InvalidArgument when there is none; ArtifactCorrupt, InvalidCard, and then the index is left as it was.
    """
    place = Zoo(zoo_folder(folder))
    paths = sorted(place.folder.glob("*/card.json"))
    if not paths:
        raise InvalidArgument(f"{short(place.folder)} has no model folders: give the folder of a zoo")
    cards, entries = [], []
    for path in paths:
        card = read_card(path)
        if card.id != path.parent.name:
            raise InvalidCard(f"{path} is of {card.id}: a model's folder has the model's name, rename it")
        check_files(place, card)
        cards.append(card)
        entries.append(index_entry(card, read_document(path)))
    _write_index(place.folder / "index.json", entries)
    return cards


def check_files(place: Zoo, card: ModelCard) -> None:
    """Check every file that `card` lists. Raises ArtifactCorrupt."""
    for published in card.files:
        place.read(card, published)


def _write_index(path: Path, entries: list[IndexEntry]) -> None:
    write_index(path, Index(models=sorted(entries, key=lambda entry: entry.id)))
