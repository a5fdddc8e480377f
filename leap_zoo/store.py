"""The models on this device: zoos in folders, what was pulled, and the chain index -> card -> file.

The index has the sha256 of every card, a card that of every file. A file is read once, checked, and its bytes are
handed on, so that what was checked is what runs. The cache keeps what was pulled by content, under no name that a
server chose:

    LEAP_ZOO_HOME/index.json             an ordinary index; written last, under a lock
    LEAP_ZOO_HOME/blobs/<sha256>         cards and files, moved in whole and checked
    LEAP_ZOO_HOME/signatures/<sha256>    the signature of the card with that sha256
    LEAP_ZOO_HOME/partial/<sha256>       a download that goes on later
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from leap_zoo.card import MAX_DOCUMENT_BYTES, OTHER_FILES, Artifact, File, Index, IndexEntry, ModelCard, default_of
from leap_zoo.documents import index_entry, parse_card, parse_index, write_index
from leap_zoo.errors import (
    ArtifactCorrupt,
    CacheUnusable,
    InvalidArgument,
    InvalidCard,
    NotPulled,
    UnknownModel,
    masked,
    nearest,
    short,
)
from leap_zoo.files import atomic_file, read_regular
from leap_zoo.locks import locked
from leap_zoo.settings import read_settings, zoo_folder

BUNDLED = Path(__file__).parent / "bundled"

ZooLocation = str | os.PathLike[str]


class Zoo:
    """A zoo in a folder that holds `index.json` and, per model, a folder. Nothing is read before it is asked for.

    `name`: for messages. `whole`: every file that a card lists is meant to be here.
    """

    whole = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = "the bundled zoo" if folder == BUNDLED else str(folder)

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
        what, path = f"card.json of {entry.id}", self.path(entry.id, "card.json", entry.sha256)
        try:
            data = read_inside(self.folder, path, MAX_DOCUMENT_BYTES)
        except OSError as error:
            raise ArtifactCorrupt(f"{what} is missing: {self._mend(entry.id)}") from error
        check_digest(what, data, entry.sha256, self._mend(entry.id))
        return data

    def path(self, model: str, name: str, sha256: str) -> Path:
        """Where a file of a model is; sha256: its own, or the card's for the files that no card lists."""
        return self.folder / model / name

    def paths(self, entry: IndexEntry, card: ModelCard) -> dict[str, Path]:
        """Where the files of a model are, by the names that they were published under; any may have gone."""
        others = {name: self.path(entry.id, name, entry.sha256) for name in OTHER_FILES}
        return others | {file.file: self.path(card.id, file.file, file.sha256) for file in card.files}

    def holds(self, card: ModelCard, artifact: Artifact) -> bool:
        """Whether the files of `artifact` are meant to be here."""
        return self.whole or all(self.has(card, file) for file in artifact.files)

    def has(self, card: ModelCard, file: File) -> bool:
        """Whether a file of that size is here; `read` checks its content."""
        try:
            return self.path(card.id, file.file, file.sha256).stat().st_size == file.bytes
        except OSError:
            return False

    def read(self, card: ModelCard, published: File) -> bytes:
        """The bytes of a file that `card` lists, size and sha256 checked. Raises ArtifactCorrupt, NotPulled."""
        what, mend = f"{published.file} of {card.id}", self._mend(card.id)
        path = self.path(card.id, published.file, published.sha256)
        try:
            data = read_inside(self.folder, path, published.bytes)
            found = path.stat().st_size
        except OSError as error:
            raise ArtifactCorrupt(f"{what} cannot be read ({error.strerror}): {mend}") from error
        if len(data) != published.bytes:
            raise ArtifactCorrupt(f"{what} is corrupt: expected {published.bytes} bytes, found {found}: {mend}")
        check_digest(what, data, published.sha256, mend)
        return data

    def other(self, entry: IndexEntry, name: str) -> bytes | None:
        """A file that no card lists (README.md, model.sig), not checked; None where there is no such regular file."""
        try:
            data = read_inside(self.folder, self.path(entry.id, name, entry.sha256), MAX_DOCUMENT_BYTES)
        except OSError:
            return None
        return data if len(data) <= MAX_DOCUMENT_BYTES else None

    def _mend(self, model: str) -> str:
        if self.folder == BUNDLED:
            return "reinstall with pip install --force-reinstall leap-zoo"
        return "copy the model's folder again from where it was published, or export it again"


class ModelFolder(Zoo):
    """One model's folder, whatever its name, as `pull --to` writes it: in no zoo, perhaps with some files only."""

    whole = False

    def index(self) -> Index:
        """The one model. Raises InvalidArgument when there is no card.json, InvalidCard when it is broken."""
        path = self.folder / "card.json"
        try:
            data = read_inside(self.folder, path, MAX_DOCUMENT_BYTES)
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            is_zoo = os.path.isfile(self.folder / "index.json")
            advice = "it is a zoo, give a model's id and zoo=FOLDER" if is_zoo else "give the folder that holds it"
            reason = getattr(error, "strerror", None) or error
            raise InvalidArgument(
                f"{short(self.folder)} is not a model's folder (card.json: {reason}): {advice}"
            ) from error
        return Index(models=[index_entry(parse_card(data, str(path)), data)])

    def path(self, model: str, name: str, sha256: str) -> Path:
        """See `Zoo`."""
        return self.folder / name


class Cache(Zoo):
    """What was pulled, as a zoo: only some files of a model may be here. Any number of processes may use it at once."""

    whole = False

    def __init__(self, home: Path) -> None:
        super().__init__(Path(os.path.expanduser(home)))
        self.name = "what was pulled"
        self.partials = self.folder / "partial"

    def exists(self) -> bool:
        """Whether anything was ever pulled."""
        return os.path.isfile(self.folder / "index.json")

    def index(self) -> Index:
        """The models that were pulled, none when the folder cannot be read. Raises InvalidCard."""
        try:
            return super().index()
        except InvalidArgument:
            return Index(models=[])
        except InvalidCard as error:
            raise InvalidCard(f"{error} (remove {short(self.folder)} and pull again)") from error

    def path(self, model: str, name: str, sha256: str) -> Path:
        """See `Zoo`."""
        return self.folder / "signatures" / sha256 if name == "model.sig" else self.blob(sha256)

    def blob(self, sha256: str) -> Path:
        """Where the content with this digest is, or would be."""
        return self.folder / "blobs" / sha256

    def paths(self, entry: IndexEntry, card: ModelCard) -> dict[str, Path]:
        """See `Zoo`: of the files that were pulled."""
        held = {file.file: self.blob(file.sha256) for file in card.files if self.has(card, file)}
        return {name: self.path(entry.id, name, entry.sha256) for name in ("card.json", "model.sig")} | held

    def read(self, card: ModelCard, published: File) -> bytes:
        """See `Zoo`."""
        if not self.blob(published.sha256).exists():
            raise NotPulled(f"{published.file} of {card.id} was not pulled: {pull_command(card, published)}")
        return super().read(card, published)

    def other(self, entry: IndexEntry, name: str) -> bytes | None:
        """See `Zoo`: the signature is here alone."""
        return super().other(entry, name) if name == "model.sig" else None

    def check(self, published: File) -> bool:
        """Whether the content is there and is still what it was; what has rotted is removed. Raises OSError."""
        path = self.blob(published.sha256)
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == published.sha256:
                    return True
        except FileNotFoundError:
            return False
        path.unlink(missing_ok=True)
        return False

    def prepare(self) -> None:
        """Make the folders. Raises CacheUnusable."""
        with self.usable():
            if str(self.folder).startswith("~"):
                raise FileNotFoundError(errno.ENOENT, "there is no home folder")
            for name in ("blobs", "partial", "signatures"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)

    def check_room(self, count: int) -> None:
        """Raises CacheUnusable when the disk cannot take that many bytes."""
        with self.usable():
            free = shutil.disk_usage(self.folder).free
            if free < count:
                raise OSError(errno.ENOSPC, f"{count} bytes are needed, {free} are free")

    def record(
        self, entry: IndexEntry, data: bytes, card: ModelCard, files: Iterable[File], signature: bytes | None
    ) -> bool:
        """List a model whose `files` were stored; False when one has gone meanwhile. Raises CacheUnusable."""
        with self._changing():
            if not all(self.has(card, file) for file in files):
                return False
            for name, content in (("card.json", data), ("model.sig", signature)):
                if content is not None:
                    with atomic_file(self.path(entry.id, name, entry.sha256)) as file:
                        file.write(content)
            self._write_index([*(other for other in self.index().models if other.id != entry.id), entry])
            return True

    def remove(self, model: str) -> int:
        """Forget a model, and remove what no other one lists; returns how many bytes. Raises UnknownModel."""
        known = [entry.id for entry in self.index().models]
        if model not in known:
            raise UnknownModel(f"{short(model)} was not pulled: nothing to remove{nearest(model, known)}")
        with self._changing():
            entries = {entry.id: entry for entry in self.index().models}
            gone = self._digests(entry for entry in [entries.pop(model, None)] if entry)
            self._write_index(list(entries.values()))
            return self._discard(gone)

    def discard(self, digests: Iterable[str]) -> None:
        """Remove content that no model lists. Raises CacheUnusable."""
        with self._changing():
            self._discard(digests)

    def prune(self) -> int:
        """Remove all content that no model lists, and unfinished downloads; returns how many bytes. May be interrupted.

        Raises CacheUnusable.
        """
        with self._changing():
            names = {path.name for kind in ("blobs", "signatures") for path in self.folder.glob(f"{kind}/*")}
            freed = self._discard(names)
        with self.usable():
            for path in [*self.partials.glob("*")]:
                with locked(self.partials / f"{path.stem}.lock", wait=False) as mine:
                    freed += _remove(path) if mine and path.suffix != ".lock" else 0
        return freed

    @contextlib.contextmanager
    def usable(self) -> Iterator[None]:
        """What the system says when it cannot keep a file, as an error of ours. Raises CacheUnusable."""
        try:
            yield
        except OSError as error:
            mend = "set LEAP_ZOO_HOME to a folder that you may write"
            if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
                mend = "make room (leap-zoo cache prune), or set LEAP_ZOO_HOME to a folder on another disk; pull again"
            reason = error.strerror or error
            raise CacheUnusable(f"cannot keep files in {short(self.folder)} ({reason}): {mend}") from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self.usable(), locked(self.folder / "index.lock"):
            yield

    def _write_index(self, entries: list[IndexEntry]) -> None:
        write_index(self.folder / "index.json", Index(models=sorted(entries, key=lambda entry: entry.id)))

    def _discard(self, digests: Iterable[str]) -> int:
        gone = set(digests) - self._digests(self.index().models)
        return sum(_remove(self.folder / name / digest) for digest in gone for name in ("blobs", "signatures"))

    def _digests(self, entries: Iterable[IndexEntry]) -> set[str]:
        listed = set()
        for entry in entries:
            listed.add(entry.sha256)
            with contextlib.suppress(ArtifactCorrupt, InvalidCard):
                listed |= {file.sha256 for file in self.card(entry).files}
        return listed

    def _mend(self, model: str) -> str:
        return f"leap-zoo pull {model}"


def zoos(zoo: ZooLocation | None = None) -> list[Zoo]:
    """The zoos to look in, in order: `zoo` alone when given, else LEAP_ZOO_URL's folder, what was pulled, the bundled.

    None of them is on the network: what a server has is pulled first. Raises InvalidArgument, UnknownModel.
    """
    if zoo is not None:
        folder = Path(os.path.expanduser(zoo_folder(zoo)))
        return [Cache(folder) if os.path.isdir(folder / "blobs") else Zoo(folder)]
    settings = read_settings()
    found = [Zoo(settings.zoo)] if settings.zoo is not None else []
    pulled = Cache(settings.home)
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
    if not found and "://" in str(name):
        raise UnknownModel(f"{short(name)} is an address: leap-zoo pull MODEL --from it, then give the model's id")
    if not found:
        url = read_settings().url if zoo is None else None
        elsewhere = "" if url is None else f"; to look on the server: leap-zoo pull MODEL --from {masked(url)}"
        raise UnknownModel(f"unknown model {short(name)}{nearest(str(name), known)}{elsewhere}")


def models(zoo: ZooLocation | None = None) -> list[ModelCard]:
    """The cards of all models that `load` would find, in the order of the indices."""
    cards: dict[str, ModelCard] = {}
    for place in zoos(zoo):
        for entry in place.index().models:
            if entry.id not in cards:
                cards[entry.id] = place.card(entry)
    return list(cards.values())


@functools.cache
def default_model() -> str:
    """The bundled model that answers wherever none is named: see `default_of`. Raises UnknownModel."""
    card = default_of(models(BUNDLED))
    if card is None:
        raise UnknownModel("no model is bundled: name one, leap-zoo list has those that are here")
    return card.id


def digests_here(zoo: ZooLocation | None = None) -> set[str]:
    """The sha256 of every published file that is on this device; `read` of its zoo checks the content."""
    cards = ((place, place.card(entry)) for place in zoos(zoo) for entry in place.index().models)
    return {file.sha256 for place, card in cards for file in card.files if place.has(card, file)}


def pull_command(card: ModelCard, file: File) -> str:
    """The command that fetches a file of a model."""
    artifact = next((one for one in card.artifacts if file in one.files), None)
    kind = f"--precision {artifact.precision} --format {artifact.format}" if artifact else f"--file {file.file}"
    return f"leap-zoo pull {card.id} {kind}"


def read_inside(folder: Path, path: Path, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a regular file inside `folder`. Raises OSError; ArtifactCorrupt for links out."""
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except RuntimeError:  # links in a circle
        inside = False
    if not inside:
        raise ArtifactCorrupt(f"{short(path)} leads out of its folder: replace the link by the file itself")
    return read_regular(path, limit)


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


def _remove(path: Path) -> int:
    size = path.stat().st_size if path.exists() else 0
    path.unlink(missing_ok=True)
    return size
