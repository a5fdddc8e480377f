"""The models on this device, and the chain index -> card -> file.

The index has the sha256 of every card, and a card has the sha256 of every file. A file is read once, checked, and its
bytes are passed on, so the bytes that run are the ones that were checked. `Zoo` is a zoo in a folder, `ModelFolder` the
folder of one model, and `Cache` the pulled models. `leap_zoo.download` has zoos on servers, with the same chain.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from leap_zoo.card import MAX_DOCUMENT_BYTES, OTHER_FILES, Artifact, File, Index, IndexEntry, ModelCard, default_of
from leap_zoo.documents import index_entry, parse_card, parse_index, write_index
from leap_zoo.errors import (
    ArtifactCorrupt,
    CacheUnusable,
    InvalidArgument,
    InvalidCard,
    LeapZooError,
    NotPulled,
    UnknownModel,
    masked,
    nearest,
    short,
)
from leap_zoo.files import failing_as, read_regular, write_file
from leap_zoo.locks import locked
from leap_zoo.settings import read_settings, zoo_folder

if TYPE_CHECKING:
    from leap_zoo.download import Partial

BUNDLED = Path(__file__).parent / "bundled"

ZooLocation = str | os.PathLike[str]


class Zoo:
    """A zoo in a folder: `index.json`, and one folder per model. Files are read when they are needed.

    `name` is for messages. `whole`: every file that a card lists should be here. `lone`: this is the folder of a single
    model, with `card.json` and no index.
    """

    whole = True
    lone = False
    kind = "a zoo"
    advice = "copy the model's folder again from where it was published, or export it again"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        if folder == BUNDLED:
            self.name, self.advice = "the bundled zoo", "reinstall with pip install --force-reinstall leap-zoo"

    def index(self) -> Index:
        """The models of this zoo. Raises InvalidArgument if there is no index, InvalidCard if it is invalid."""
        name = "card.json" if self.lone else "index.json"
        with failing_as(InvalidArgument, f"{short(self.name)} is not {self.kind}: {name}", self._hint()):
            data = self.document(name, MAX_DOCUMENT_BYTES)
        where = f"{self.name}/{name}"
        return Index(models=[index_entry(parse_card(data, where), data)]) if self.lone else parse_index(data, where)

    def entry(self, model: str | None = None) -> IndexEntry:
        """The index entry of a model; None: the only model, else leap-zoo's default model. Raises UnknownModel."""
        entries = {entry.id: entry for entry in self.index().models}
        if model is None:
            model = next(iter(entries)) if len(entries) == 1 else default_model()
        if model not in entries:
            raise UnknownModel(f"{short(self.name)} has no model {short(model)}{nearest(model, entries)}")
        return entries[model]

    def card(self, entry: IndexEntry) -> ModelCard:
        """The card of a model, checked against the index. Raises ArtifactCorrupt, InvalidCard."""
        return check_card(entry, self.card_bytes(entry))

    def card_bytes(self, entry: IndexEntry) -> bytes:
        """The published card.json, with size and sha256 checked. Raises ArtifactCorrupt."""
        return self._checked(entry.id, "card.json", entry)

    def document(self, path: str, limit: int, *, optional: bool = False) -> bytes:
        """A file of at most `limit` bytes, unchecked. Raises OSError if it does not exist, ArtifactCorrupt.

        optional: a server that answers "forbidden" counts as not having the file.
        """
        data = read_inside(self.folder, self.folder / path, limit)
        if len(data) > limit:
            raise ArtifactCorrupt(f"{short(self.folder / path)} is larger than {limit} bytes: {self.advice}")
        return data

    def where(self, model: str, name: str, sha256: str) -> str:
        """The path of a file inside this zoo. sha256: the file's, or the card's for files that no card lists."""
        return name if self.lone else f"{model}/{name}"

    def path(self, model: str, name: str, sha256: str) -> Path:
        """The same, as a path on this device."""
        return self.folder / self.where(model, name, sha256)

    def paths(self, entry: IndexEntry, card: ModelCard) -> dict[str, Path]:
        """The paths of a model's files, by published name; some may no longer exist."""
        others = {name: self.path(entry.id, name, entry.sha256) for name in OTHER_FILES}
        return others | {file.file: self.path(card.id, file.file, file.sha256) for file in card.files}

    def holds(self, card: ModelCard, artifact: Artifact) -> bool:
        """Whether the files of `artifact` should be here."""
        return self.whole or all(self.has(card, file) for file in artifact.files)

    def has(self, card: ModelCard, file: File) -> bool:
        """Whether a file of the right size is here; `read` checks its content."""
        try:
            return self.path(card.id, file.file, file.sha256).stat().st_size == file.bytes
        except OSError:
            return False

    def read(self, card: ModelCard, published: File) -> bytes:
        """The bytes of a file that `card` lists, size and sha256 checked. Raises ArtifactCorrupt, NotPulled."""
        return self._checked(card.id, published.file, published)

    def _checked(self, model: str, name: str, published: File | IndexEntry) -> bytes:
        """The bytes of a file, if they are the published ones. Raises ArtifactCorrupt."""
        what, fix = f"{name} of {model}", self._fix(model)
        with failing_as(ArtifactCorrupt, f"{what} cannot be read", fix):
            data = self.document(self.where(model, name, published.sha256), published.bytes)
        if len(data) != published.bytes:
            raise ArtifactCorrupt(f"{what} is corrupt: expected {published.bytes} bytes, found {len(data)}: {fix}")
        check_digest(what, hashlib.sha256(data).hexdigest(), published.sha256, fix)
        return data

    def fetch(self, card: ModelCard, partial: Partial) -> None:
        """Append what `partial` is missing. Raises ArtifactCorrupt, NotPulled, DownloadFailed, OSError."""
        partial.begin()
        partial.append(self.read(card, partial.file))

    def other(self, entry: IndexEntry, name: str) -> bytes | None:
        """A file that no card lists (README.md, model.sig), unchecked; None if it does not exist.

        Raises ArtifactCorrupt if it cannot be read.
        """
        path = self.where(entry.id, name, entry.sha256)
        failing = failing_as(ArtifactCorrupt, f"{path} cannot be read", self._fix(entry.id))
        with failing, contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self.document(path, MAX_DOCUMENT_BYTES, optional=True)
        return None

    def _fix(self, model: str) -> str:
        return self.advice.replace("MODEL", model)

    def _hint(self) -> str:
        """What to do where there is no index."""
        return "give the folder that contains index.json"


class ModelFolder(Zoo):
    """The folder of one model, as `pull --to` writes it. It may have any name, and only some of the files."""

    whole = False
    lone = True
    kind = "a model's folder"

    def _hint(self) -> str:
        if os.path.isfile(self.folder):
            return "it is a file: give its folder, or a file that ends in .onnx or .xml"
        is_zoo = os.path.isfile(self.folder / "index.json")
        return "it is a zoo, so give a model's id and zoo=FOLDER" if is_zoo else "give the folder that contains it"


class Cache(Zoo):
    """The pulled files, named by content, so that no server chooses a file name. Safe for use by several processes.

    index.json             an ordinary index, written last, under a lock
    blobs/<sha256>         complete, checked cards and files
    signatures/<sha256>    the signature of the card with that sha256
    partial/<sha256>       an unfinished download
    """

    whole = False

    def __init__(self, home: Path, fix: str = "set LEAP_ZOO_HOME to a folder that you may write") -> None:
        super().__init__(Path(os.path.expanduser(home)))
        self.name = "what was pulled"
        self.advice = "leap-zoo pull MODEL"
        self.partials = self.folder / "partial"
        self._on_error = fix

    def index(self) -> Index:
        """The pulled models; none if the folder cannot be read. Raises InvalidCard."""
        try:
            return super().index()
        except InvalidArgument:
            return Index(models=[])
        except InvalidCard as error:
            raise InvalidCard(f"{error} (remove {short(self.folder)} and pull again)") from error

    def where(self, model: str, name: str, sha256: str) -> str:
        """See `Zoo`."""
        return f"signatures/{sha256}" if name == "model.sig" else f"blobs/{sha256}"

    def blob(self, sha256: str) -> Path:
        """The path for content with this digest, whether it exists or not."""
        return self.folder / "blobs" / sha256

    def paths(self, entry: IndexEntry, card: ModelCard) -> dict[str, Path]:
        """See `Zoo`: only the pulled files."""
        held = {file.file: self.blob(file.sha256) for file in card.files if self.has(card, file)}
        return {name: self.path(entry.id, name, entry.sha256) for name in ("card.json", "model.sig")} | held

    def read(self, card: ModelCard, published: File) -> bytes:
        """See `Zoo`."""
        if not self.blob(published.sha256).exists():
            raise NotPulled(f"{published.file} of {card.id} was not pulled: {pull_command(card, published)}")
        return super().read(card, published)

    def other(self, entry: IndexEntry, name: str) -> bytes | None:
        """See `Zoo`: the cache keeps only the signature."""
        return super().other(entry, name) if name == "model.sig" else None

    def check(self, published: File) -> bool:
        """Whether the content exists and matches its digest; damaged content is removed. Raises OSError."""
        path = self.blob(published.sha256)
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == published.sha256:
                    return True
        except FileNotFoundError:
            return False
        path.unlink(missing_ok=True)
        return False

    def prepare(self, count: int) -> None:
        """Create the folders. Raises CacheUnusable, also if the disk has no room for `count` more bytes."""
        with self.usable():
            if str(self.folder).startswith("~"):
                raise FileNotFoundError(errno.ENOENT, "there is no home folder")
            for name in ("blobs", "partial", "signatures"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            import shutil

            free = shutil.disk_usage(self.folder).free
            if free < count:
                raise OSError(errno.ENOSPC, f"{count} bytes are needed, {free} are free")

    def record(
        self, entry: IndexEntry, data: bytes, card: ModelCard, files: Iterable[File], signature: bytes | None
    ) -> None:
        """List a model whose `files` are stored. Raises CacheUnusable, also if one was removed in the meantime."""
        with self._changing():
            if not all(self.has(card, file) for file in files):
                raise CacheUnusable(f"another process removed files from {short(self.folder)}: pull again")
            for name, content in (("card.json", data), ("model.sig", signature)):
                if content is not None:
                    write_file(self.path(entry.id, name, entry.sha256), content)
            self._write_index([*(other for other in self.index().models if other.id != entry.id), entry])

    def remove(self, *models: str) -> int:
        """Remove models, and the content that no other model lists; returns the number of bytes freed.

        Raises UnknownModel if one of them was not pulled; then nothing is removed.
        """
        known = [entry.id for entry in self.index().models]
        for model in models:
            if model not in known:
                raise UnknownModel(f"{short(model)} was not pulled: nothing was removed{nearest(model, known)}")
        with self._changing():
            entries = self.index().models
            gone = self._digests(entry for entry in entries if entry.id in models)
            self._write_index([entry for entry in entries if entry.id not in models])
            return self._discard(gone)

    def discard(self, digests: Iterable[str]) -> None:
        """Remove content that no model lists. Raises CacheUnusable."""
        with self._changing():
            self._discard(digests)

    def prune(self) -> int:
        """Remove unlisted content and unfinished downloads; returns the number of bytes freed. Raises CacheUnusable."""
        if not self.folder.is_dir():
            return 0
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
        """Turn any OSError in the block into CacheUnusable, with the reason and the fix."""
        try:
            yield
        except OSError as error:
            fix = self._on_error
            if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
                fix = "free space (leap-zoo cache prune) or choose another disk (LEAP_ZOO_HOME, --to), then pull again"
            reason = error.strerror or error
            raise CacheUnusable(f"cannot store files in {short(self.folder)} ({reason}): {fix}") from error

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


def zoos(zoo: ZooLocation | None = None) -> list[Zoo]:
    """The zoos to search: only `zoo` if given, else LEAP_ZOO_URL's folder, the pulled models, then the bundled zoo.

    None of them is on the network: models on a server must be pulled first. Raises InvalidArgument, UnknownModel.
    """
    if zoo is not None:
        folder = zoo_folder(zoo)
        return [Cache(folder) if os.path.isdir(folder / "blobs") else Zoo(folder)]
    settings = read_settings()
    found = [Zoo(settings.zoo)] if settings.zoo is not None else []
    pulled = Cache(settings.home)
    if os.path.isfile(pulled.folder / "index.json"):
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
    """Find the first zoo that lists `name`; returns it and the model's card.

    Raises UnknownModel with the nearest names.
    """
    return next(find_all(name, zoo))


def find_all(name: str, zoo: ZooLocation | None = None) -> Iterator[tuple[Zoo, ModelCard]]:
    """Yield the zoos that list `name`, lazily. Raises UnknownModel if there is none."""
    known: list[str] = []
    for place in zoos(zoo):
        for entry in place.index().models:
            if entry.id == name:
                yield place, place.card(entry)
            known.append(entry.id)
    if name in known:
        return
    if "://" in name:
        raise UnknownModel(f"{short(name)} is a URL: run leap-zoo pull MODEL --from with it, then give the model's id")
    if os.path.isdir(name):
        raise UnknownModel(f"unknown model {short(name)}{nearest(name, known)}; for the folder give ./{name}")
    url = read_settings().url if zoo is None else None
    elsewhere = "" if url is None else f"; to try the server: leap-zoo pull MODEL --from {masked(url)}"
    raise UnknownModel(f"unknown model {short(name)}{nearest(name, known)}{elsewhere}")


def models(zoo: ZooLocation | None = None, damaged: list[LeapZooError] | None = None) -> list[ModelCard]:
    """The cards of all models that `load` can find, in the order of the indices. damaged: see `cards_of`."""
    cards: dict[str, ModelCard] = {}
    for place in zoos(zoo):
        for card in cards_of(place, damaged):
            cards.setdefault(card.id, card)
    return list(cards.values())


def cards_of(place: Zoo, damaged: list[LeapZooError] | None = None) -> Iterator[ModelCard]:
    """The cards of one zoo. damaged: a list for the errors of cards that cannot be used; else they are raised."""
    for entry in place.index().models:
        try:
            yield place.card(entry)
        except (ArtifactCorrupt, InvalidCard) as error:
            if damaged is None:
                raise
            damaged.append(error)


@functools.cache
def default_model() -> str:
    """The bundled model that is used if none is named: see `default_of`. Raises UnknownModel."""
    card = default_of(models(BUNDLED))
    if card is None:
        raise UnknownModel("no model is bundled: name one of the models in leap-zoo list")
    return card.id


def digests_here(zoo: ZooLocation | None = None) -> set[str]:
    """The sha256 of every published file on this device; its zoo's `read` checks the content."""
    cards = ((place, card) for place in zoos(zoo) for card in cards_of(place, []))
    return {file.sha256 for place, card in cards for file in card.files if place.has(card, file)}


def pull_command(card: ModelCard, file: File) -> str:
    """The command that fetches a file of a model."""
    artifact = next((one for one in card.artifacts if file in one.files), None)
    kind = f" --precision {artifact.precision} --format {artifact.format}" if artifact else ""
    return f"leap-zoo pull {card.id}{kind}"


def read_inside(folder: Path, path: Path, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a regular file inside `folder`.

    In the hub's cache, the files of a snapshot are links to the blobs of its repository.
    Raises OSError; ArtifactCorrupt for a link to the outside.
    """
    snapshots = (parent for parent in folder.absolute().parents if parent.name == "snapshots")
    home = next((parent.parent for parent in snapshots if (parent.parent / "blobs").is_dir()), folder)
    try:
        inside = path.resolve().is_relative_to(home.resolve())
    except RuntimeError:  # circular links
        inside = False
    except ValueError as error:  # a null character
        raise OSError(errno.EINVAL, "not a valid path") from error
    if not inside:
        raise ArtifactCorrupt(f"{short(path)} is a link to outside its folder: replace it with the file itself")
    return read_regular(path, limit)


def check_card(entry: IndexEntry, data: bytes) -> ModelCard:
    """The card in `data`, which must be the model that `entry` lists. Raises InvalidCard."""
    card = parse_card(data, f"card.json of {entry.id}")
    if (card.id, card.revision) != (entry.id, entry.revision):
        raise InvalidCard(f"index.json lists {entry.id} {entry.revision}, but the card says {card.id} {card.revision}")
    return card


def check_digest(what: str, found: str, expected: str, fix: str) -> None:
    """Raises ArtifactCorrupt unless the sha256 `found` is the published one."""
    if found != expected:
        raise ArtifactCorrupt(f"{what} is corrupt: expected sha256 {expected}, found {found}: {fix}")


def _remove(path: Path) -> int:
    size = path.stat().st_size if path.exists() else 0
    path.unlink(missing_ok=True)
    return size
