"""Fetch a model from elsewhere: into this device's cache, where `load` finds it, or into a folder to take along.

index -> card -> files, each checked by what came before; the model is listed when everything is there, so that nobody
ever sees a part of one. What is refused leaves nothing; what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from leap_zoo.card import MAX_DOCUMENT_BYTES, File, IndexEntry, ModelCard
from leap_zoo.download import downloading
from leap_zoo.errors import (
    ArtifactCorrupt,
    CacheUnusable,
    DownloadFailed,
    InvalidArgument,
    NotPulled,
    UnknownModel,
    nearest,
    short,
)
from leap_zoo.files import atomic_file, check_path
from leap_zoo.locks import locked
from leap_zoo.model import choose_artifact
from leap_zoo.progress import Progress
from leap_zoo.publish import write_folder
from leap_zoo.settings import read_settings
from leap_zoo.sources import Offer, open_source
from leap_zoo.store import Cache, Zoo, default_model, find_all

SIGNATURE = "model.sig"
PAGES = ("README.md", "curriculum.svg")  # for people; no digest covers them

_ROUNDS = 3  # another process may prune what this one is about to list
_FROM = "give --from URL_OR_FOLDER, or set LEAP_ZOO_URL"

_Choose = Callable[[ModelCard, Callable[[File], bool]], list[File]]  # by the card, and what is there at all
_To = str | os.PathLike[str] | None


@dataclass(frozen=True)
class PulledFile:
    """A file that is on this device now, checked. `downloaded`: it was not there before."""

    file: str
    bytes: int
    sha256: str
    path: str
    downloaded: bool


@dataclass(frozen=True)
class Pulled:
    """What `pull` did. `signed`: the zoo had a signature for the card; `leap_zoo.verify` checks it."""

    model: str
    revision: str
    source: str
    signed: bool
    files: list[PulledFile]


def pull(
    name: str | None = None,
    source: str | os.PathLike[str] | None = None,
    *,
    to: str | os.PathLike[str] | None = None,
    precision: str | None = None,
    format: str | None = None,
    file: str | None = None,
    everything: bool = False,
    shown: bool = False,
) -> Pulled:
    """Fetch the card of a model, its golden file, and one artifact: the one that `load` would choose.

    name: None: the only model of the source, else leap-zoo's default.
    source: a folder, a file://, http(s):// or hf://OWNER/NAME URL, of a zoo or of one model; default: LEAP_ZOO_URL,
        and without that the models that are on this device.
    to: write the files to the folder to/NAME, with the card, its signature and README.md, and leave the cache alone.
    precision, format: another artifact, or `timm`, what timm reads; file: what has this file; everything: all files.
    shown: a progress bar, where stderr is a terminal.
    LEAP_ZOO_OFFLINE=1: a server is not asked; it is enough when everything is here.
    Raises UnknownModel, InvalidArgument, InvalidCard, ArtifactCorrupt, DownloadFailed, CacheUnusable, MissingExtra.
    """
    for what, text in (("a model", name), ("a file", file)):
        if text is not None and not isinstance(text, str):
            raise InvalidArgument(f"{what} is named by a text, not by {type(text).__name__}")
    if to is not None and "\0" in str(check_path(to)):
        raise InvalidArgument(f"{short(to)} has a null character: give --to another folder")
    settings = read_settings()
    place = source if source is not None else settings.zoo or settings.url
    choose = _chooser(precision, format, file, everything)
    if place is None:
        return _from_here(name or default_model(), choose, to)
    with contextlib.closing(open_source(place)) as opened:
        if opened.remote and settings.offline:
            return _without_network(name or default_model(), choose, to)
        offer, cache = Offer(opened), Cache(settings.home)
        model = _chosen(offer, name, choose, pages=to is not None)
        return _into_cache(cache, offer, model, shown) if to is None else _into_folder(to, cache, offer, model, shown)


@dataclass(frozen=True)
class _Chosen:
    """A model of a source: its card as it was published, the files to fetch, and those that no card lists."""

    source: str
    entry: IndexEntry
    data: bytes
    card: ModelCard
    files: list[File]
    others: dict[str, bytes | None]


def _chosen(offer: Offer, name: str | None, choose: _Choose, *, pages: bool) -> _Chosen:
    entry = offer.entry(name)
    data, card = offer.card(entry)
    files = choose(card, partial(offer.has, entry))
    others = {name: _other(offer, entry, name) for name in (SIGNATURE, *(PAGES if pages else ()))}
    return _Chosen(offer.source.name, entry, data, card, files, others)


def _into_cache(cache: Cache, offer: Offer, model: _Chosen, shown: bool) -> Pulled:
    entry = model.entry
    cache.prepare()
    for _ in range(_ROUNDS):
        arrived = _fetch_all(cache, offer, model, shown)
        if not cache.blob(entry.sha256).exists():
            arrived.add(entry.sha256)
        if cache.record(entry, model.data, model.card, model.files, model.others[SIGNATURE]):
            return _pulled(model, cache, None, arrived)
    raise CacheUnusable(f"other processes keep removing files from {short(cache.folder)}: end them, and pull again")


class _Scratch(Cache):
    """Where downloads lie until a folder is whole: inside the folder `to`, so that nothing is written elsewhere."""

    def __init__(self, to: Path) -> None:
        super().__init__(to.absolute() / ".leap-zoo")
        self._to = to

    @contextlib.contextmanager
    def usable(self) -> Iterator[None]:
        """See `Cache`. Raises InvalidArgument."""
        try:
            yield
        except OSError as error:
            raise InvalidArgument(_unwritable(self._to, error)) from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While no other process is at it. Made, and removed unless a download can go on later; so are its parents."""
        made = [folder for folder in self.folder.parents if not os.path.lexists(folder)]
        with contextlib.ExitStack() as stack:
            stack.callback(_remove_empty, made)
            with self.usable():
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder.with_suffix(".lock")))
            self.prepare()
            stack.callback(_remove_empty, [*self.folder.iterdir(), self.folder])
            yield

    def take(self, cache: Cache, card: ModelCard, files: Iterable[File]) -> None:
        """Copy what `cache` has of them. Raises InvalidArgument."""
        for file in files:
            with contextlib.suppress(ArtifactCorrupt, NotPulled), self.usable():
                data = cache.read(card, file)
                with atomic_file(self.blob(file.sha256)) as blob:
                    blob.write(data)


def _into_folder(to: str | os.PathLike[str], cache: Cache, offer: Offer, model: _Chosen, shown: bool) -> Pulled:
    scratch = _Scratch(check_path(to))
    with scratch.alone():
        scratch.take(cache, model.card, model.files)
        arrived = _fetch_all(scratch, offer, model, shown)
        try:
            return _pulled(model, scratch, to, arrived)
        finally:
            scratch.discard(file.sha256 for file in model.files)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _unwritable(to: object, error: OSError) -> str:
    return f"cannot write to {short(to)} ({error.strerror or error}): give --to another folder"


def _from_here(name: str, choose: _Choose, to: _To) -> Pulled:
    """Without a source: what is on this device already. Raises UnknownModel, InvalidArgument, ArtifactCorrupt."""
    try:
        pulled = _held(name, choose, to)
    except UnknownModel as error:
        raise UnknownModel(f"{error}; to pull it from elsewhere, {_FROM}") from error
    if pulled is None:
        raise InvalidArgument(f"{name} is on this device, but not the files that you ask for: {_FROM}")
    return pulled


def _without_network(name: str, choose: _Choose, to: _To) -> Pulled:
    with contextlib.suppress(UnknownModel):
        pulled = _held(name, choose, to)
        if pulled is not None:
            return pulled
    raise DownloadFailed(
        f"LEAP_ZOO_OFFLINE is 1, and what was asked for of {short(name)} is not on this device: unset it, or "
        "give --from FOLDER"
    )


def _held(name: str, choose: _Choose, to: _To) -> Pulled | None:
    for place, card in find_all(name):
        try:
            files = choose(card, partial(place.has, card))
        except InvalidArgument:  # the same model elsewhere may have more files
            continue
        if all(place.has(card, file) for file in files):
            for file in files:
                place.read(card, file)
            entry = next(entry for entry in place.index().models if entry.id == name)
            others = {name: place.other(entry, name) for name in (SIGNATURE, *PAGES)}
            return _pulled(_Chosen(place.name, entry, place.card_bytes(entry), card, files, others), place, to)
    return None


def _chooser(precision: str | None, format: str | None, file: str | None, everything: bool) -> _Choose:
    """What picks the files of a card. Raises InvalidArgument for choices that exclude one another."""
    if ((precision or format) and (file or everything)) or (file and everything):
        raise InvalidArgument("pull what? Give precision and format, or one file, or all")

    def choose(card: ModelCard, has: Callable[[File], bool]) -> list[File]:
        if everything:
            return card.files
        if file:
            chosen = _with_file(card, file)
        elif format == "timm":
            chosen = card.timm if precision in (None, "fp32") else []
            if not chosen:
                raise InvalidArgument(f"{card.id} has no files for timm" + (f" of {precision}" if card.timm else ""))
        else:
            chosen = choose_artifact(card, precision, format, lambda one: all(map(has, one.files))).files
        return [*(one for one in chosen if one != card.golden), card.golden]

    return choose


def _with_file(card: ModelCard, name: str) -> list[File]:
    """A file, and those that are of no use without one another."""
    sets: list[list[File]] = [*(artifact.files for artifact in card.artifacts), card.timm, [card.golden]]
    for together in sets:
        if name in [file.file for file in together]:
            return together
    raise InvalidArgument(f"{card.id} has no file {short(name)}{nearest(name, [file.file for file in card.files])}")


def _other(offer: Offer, entry: IndexEntry, name: str) -> bytes | None:
    """A file that no card lists. A page that some hosts give for what is not there is none."""
    data = offer.source.read(offer.path(entry, name), MAX_DOCUMENT_BYTES, optional=True)
    starts = {SIGNATURE: (b"{",), "curriculum.svg": (b"<?xml", b"<svg"), "README.md": (b"",)}[name]
    return data if data is not None and data.lstrip().startswith(starts) else None


def _fetch_all(cache: Cache, offer: Offer, model: _Chosen, shown: bool) -> set[str]:
    """Fetch what the cache lacks; returns the digests of what arrived."""
    files = model.files
    cache.check_room(sum(file.bytes for file in files if not cache.has(model.card, file)))
    arrived: set[str] = set()
    try:
        with Progress(sum(file.bytes for file in files), shown=shown, scale=1e6, unit="MB") as progress:
            for file in files:
                if _fetch(cache, offer, offer.path(model.entry, file.file), file, progress):
                    arrived.add(file.sha256)
    except ArtifactCorrupt:
        cache.discard(arrived)
        raise
    return arrived


def _fetch(cache: Cache, offer: Offer, path: str, file: File, progress: Progress) -> bool:
    """Whether the file had to be fetched; it is in the cache now, checked."""
    with downloading(cache, file) as download:
        if download is None:
            progress.step(file.bytes)
            return False
        progress.step(download.size)
        offer.source.fetch(path, file, download, progress)
        try:
            download.finish()
        except ArtifactCorrupt:
            if not download.resumed:
                raise
            # What was there may be of another version, or damaged: this time from the first byte.
            progress.step(-download.size)
            download.begin()
            offer.source.fetch(path, file, download, progress)
            download.finish()
        return True


def _pulled(model: _Chosen, place: Zoo, to: _To, arrived: Collection[str] = ()) -> Pulled:
    """The answer about files that `place` has, and first the folder with them where one is asked for."""
    entry = model.entry
    if to is not None:
        try:
            place = write_folder(
                check_path(to), place, model.card, model.files, model.others | {"card.json": model.data}
            )
        except OSError as error:
            raise InvalidArgument(_unwritable(to, error)) from error
    return Pulled(
        model=entry.id,
        revision=entry.revision,
        source=model.source,
        signed=model.others[SIGNATURE] is not None,
        files=[
            PulledFile(
                file=one.file,
                bytes=one.bytes,
                sha256=one.sha256,
                path=str(place.path(entry.id, one.file, one.sha256)),
                downloaded=one.sha256 in arrived,
            )
            for one in [File(file="card.json", bytes=entry.bytes, sha256=entry.sha256), *model.files]
        ],
    )
