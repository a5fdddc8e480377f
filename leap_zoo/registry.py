"""Where models come from: a folder that holds `index.json` and, per model, a folder with its card and files.

The chain of trust is index -> card -> file: the index has the card's sha256, the card has every file's. A file is read
once, checked, and its bytes are handed on, so that what was checked is what runs.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from leap_zoo.card import Artifact, File, Index, IndexEntry, ModelCard
from leap_zoo.documents import (
    index_entry,
    parse_card,
    parse_index,
    read_document,
    read_index,
    write_card,
    write_index,
)
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, InvalidCard, UnknownModel, nearest, short
from leap_zoo.settings import read_settings, zoo_folder

BUNDLED = Path(__file__).parent / "bundled"

ZooLocation = str | os.PathLike[str]


class Zoo:
    """A zoo in a folder. Nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def index(self) -> Index:
        """The models of this zoo. Raises InvalidArgument when there is no index.json, InvalidCard when it is broken."""
        path = self.folder / "index.json"
        try:
            return parse_index(read_document(path), str(path))
        except OSError as error:
            raise InvalidArgument(
                f"{short(self.folder)} is no zoo (index.json: {error.strerror}): give the folder that holds index.json"
            ) from error

    def card(self, entry: IndexEntry) -> ModelCard:
        """The card of a model, checked against the index. Raises ArtifactCorrupt, InvalidCard."""
        path = self.folder / entry.id / "card.json"
        try:
            data = read_document(path)
        except OSError as error:
            raise ArtifactCorrupt(f"card.json of {entry.id} is missing: {self._mend()}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != entry.sha256:
            raise ArtifactCorrupt(_differs(f"card.json of {entry.id}", entry.sha256, found, self._mend()))
        card = parse_card(data, str(path))
        if (card.id, card.revision) != (entry.id, entry.revision):
            raise InvalidCard(f"index.json lists {entry.id} {entry.revision}, its card says {card.id} {card.revision}")
        return card

    def holds(self, card: ModelCard, artifact: Artifact) -> bool:
        """Whether the files of `artifact` are meant to be here: all that a card lists are, in a folder."""
        return True

    def read(self, card: ModelCard, published: File) -> bytes:
        """The bytes of a file that `card` lists, size and sha256 checked. Raises ArtifactCorrupt."""
        what = f"{published.file} of {card.id}"
        try:
            with (self.folder / card.id / published.file).open("rb") as file:
                data = file.read(published.bytes + 1)
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ArtifactCorrupt(f"{what} cannot be read ({error.strerror}): {self._mend()}") from error
        if len(data) != published.bytes:
            raise ArtifactCorrupt(f"{what} is corrupt: expected {published.bytes} bytes, found {size}: {self._mend()}")
        found = hashlib.sha256(data).hexdigest()
        if found != published.sha256:
            raise ArtifactCorrupt(_differs(what, published.sha256, found, self._mend()))
        return data

    def _mend(self) -> str:
        if self.folder == BUNDLED:
            return "reinstall with pip install --force-reinstall leap-zoo"
        return "copy the model's folder again from where it was published, or export it again"


def zoos(zoo: ZooLocation | None = None) -> list[Zoo]:
    """The zoos to look in, in order: `zoo` alone when given, else that of LEAP_ZOO_URL, then the bundled one."""
    if zoo is not None:
        return [Zoo(zoo_folder(zoo))]
    folder = read_settings().zoo
    found = [Zoo(folder)] if folder is not None else []
    if (BUNDLED / "index.json").is_file():
        found.append(Zoo(BUNDLED))
    if not found:
        raise UnknownModel(
            "this installation has no bundled model: give zoo=FOLDER, set LEAP_ZOO_URL, or reinstall leap-zoo"
        )
    return found


def find(name: str, zoo: ZooLocation | None = None) -> tuple[Zoo, ModelCard]:
    """The first zoo that lists `name`, and the model's card. Raises UnknownModel with the nearest names."""
    known: list[str] = []
    for place in zoos(zoo):
        for entry in place.index().models:
            if entry.id == name:
                return place, place.card(entry)
            known.append(entry.id)
    raise UnknownModel(f"unknown model {short(name)}{nearest(str(name), known)}")


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
    models, sorted by id. Raises ArtifactCorrupt, InvalidCard.
    """
    place = Zoo(zoo_folder(folder))
    for published in [*(file for artifact in card.artifacts for file in artifact.files), card.golden]:
        place.read(card, published)
    data = write_card(place.folder / card.id / "card.json", card)
    path = place.folder / "index.json"
    others = [entry for entry in read_index(path).models if entry.id != card.id] if path.exists() else []
    write_index(path, Index(models=sorted([*others, index_entry(card, data)], key=lambda entry: entry.id)))


def _differs(what: str, expected: str, found: str, mend: str) -> str:
    return f"{what} is corrupt: expected sha256 {expected}, found {found}: {mend}"
