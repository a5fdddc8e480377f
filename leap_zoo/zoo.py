"""A zoo on this device: an index, cards and files, each checked by the digest that the one before it gives.

The chain of trust is index -> card -> file: the index has the card's sha256, the card has every file's. A file is read
once, checked, and its bytes are handed on, so that what was checked is what runs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from leap_zoo.card import MAX_DOCUMENT_BYTES, OTHER_FILES, Artifact, File, Index, IndexEntry, ModelCard
from leap_zoo.documents import parse_card, parse_index
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, InvalidCard, short

BUNDLED = Path(__file__).parent / "bundled"
MAX_SIGNATURE_BYTES = 64 * 1024  # one over a card has about 2 kB

_OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO would wait for ever


class Zoo:
    """A zoo in a folder that holds `index.json` and, per model, a folder. Nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def index(self) -> Index:
        """The models of this zoo. Raises InvalidArgument when there is no index.json, InvalidCard when it is broken."""
        path = self.folder / "index.json"
        try:
            return parse_index(read_inside(self.folder, path, MAX_DOCUMENT_BYTES), str(path))
        except OSError as error:
            raise InvalidArgument(
                f"{short(self.folder)} is no zoo (index.json: {error.strerror}): give the folder that holds index.json"
            ) from error

    def card(self, entry: IndexEntry) -> ModelCard:
        """The card of a model, checked against the index. Raises ArtifactCorrupt, InvalidCard."""
        return check_card(entry, self.card_bytes(entry))

    def card_bytes(self, entry: IndexEntry) -> bytes:
        """card.json as it was published, size and sha256 checked. Raises ArtifactCorrupt."""
        what = f"card.json of {entry.id}"
        path = self._card_path(entry)
        try:
            data = read_inside(self.folder, path, MAX_DOCUMENT_BYTES)
        except OSError as error:
            raise ArtifactCorrupt(f"{what} is missing: {self._mend(entry.id)}") from error
        check_digest(what, data, entry.sha256, self._mend(entry.id))
        return data

    def holds(self, card: ModelCard, artifact: Artifact) -> bool:
        """Whether the files of `artifact` are meant to be here: all that a card lists are, in a folder."""
        return True

    def paths(self, entry: IndexEntry, card: ModelCard) -> dict[str, Path]:
        """Where the files of a model are, by the names that they were published under; any may have gone."""
        others = {name: self.folder / entry.id / name for name in OTHER_FILES}
        return others | {file.file: self._path(card.id, file) for file in card.files}

    def read(self, card: ModelCard, published: File) -> bytes:
        """The bytes of a file that `card` lists, size and sha256 checked. Raises ArtifactCorrupt, NotPulled."""
        what = f"{published.file} of {card.id}"
        path = self._path(card.id, published)
        try:
            data = read_inside(self.folder, path, published.bytes)
        except OSError as error:
            raise ArtifactCorrupt(f"{what} cannot be read ({error.strerror}): {self._mend(card.id)}") from error
        if len(data) != published.bytes:
            raise ArtifactCorrupt(
                f"{what} is corrupt: expected {published.bytes} bytes, found {path.stat().st_size}: "
                f"{self._mend(card.id)}"
            )
        check_digest(what, data, published.sha256, self._mend(card.id))
        return data

    def signature(self, entry: IndexEntry) -> bytes | None:
        """The model's `model.sig`, not checked (see `leap_zoo.signing`), None where there is none or it is no file."""
        try:
            data = read_inside(self.folder, self._signature_path(entry), MAX_SIGNATURE_BYTES)
        except OSError:
            return None
        return data if len(data) <= MAX_SIGNATURE_BYTES else None

    def _card_path(self, entry: IndexEntry) -> Path:
        return self.folder / entry.id / "card.json"

    def _signature_path(self, entry: IndexEntry) -> Path:
        return self.folder / entry.id / "model.sig"

    def _path(self, model: str, published: File) -> Path:
        return self.folder / model / published.file

    def _mend(self, model: str) -> str:
        if self.folder == BUNDLED:
            return "reinstall with pip install --force-reinstall leap-zoo"
        return "copy the model's folder again from where it was published, or export it again"


def read_inside(folder: Path, path: Path, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a regular file inside `folder`. Raises OSError; ArtifactCorrupt for links out."""
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except RuntimeError:  # links in a circle
        inside = False
    if not inside:
        raise ArtifactCorrupt(f"{short(path)} leads out of its zoo: replace the link by the file itself")
    return read_regular(path, limit)


def read_regular(path: Path, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a regular file. Raises OSError, also for a folder, a pipe or a device."""
    descriptor = os.open(path, _OPEN)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(min(limit, status.st_size) + 1)  # memory is taken for as much as is asked for
    finally:
        os.close(descriptor)


class ModelFolder(Zoo):
    """One model's folder, whatever its name, which may be in no zoo yet."""

    def _path(self, model: str, published: File) -> Path:
        return self.folder / published.file


def check_card(entry: IndexEntry, data: bytes) -> ModelCard:
    """The card in `data`, which must be the model that `entry` lists. Raises InvalidCard."""
    card = parse_card(data, f"card.json of {entry.id}")
    if (card.id, card.revision) != (entry.id, entry.revision):
        raise InvalidCard(f"index.json lists {entry.id} {entry.revision}, its card says {card.id} {card.revision}")
    return card


def check_digest(what: str, data: bytes, expected: str, mend: str) -> None:
    """Raises ArtifactCorrupt unless `expected` is the sha256 of `data`."""
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ArtifactCorrupt(differs(what, expected, found, mend))


def differs(what: str, expected: str, found: str, mend: str) -> str:
    """The message about a file that has another sha256 than was published."""
    return f"{what} is corrupt: expected sha256 {expected}, found {found}: {mend}"
