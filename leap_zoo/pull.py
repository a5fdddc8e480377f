"""Fetch a model from a zoo: into this device's cache, where `load` finds it, or into a folder to copy anywhere.

Each step of index -> card -> files is checked against the one before. The model is listed once it is complete, so an
incomplete model is never visible. A rejected download leaves nothing behind; an interrupted one resumes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from leap_zoo.card import OTHER_FILES, Artifact, File, IndexEntry, ModelCard
from leap_zoo.documents import read_card
from leap_zoo.download import download, open_zoo
from leap_zoo.errors import (
    ArtifactCorrupt,
    DownloadFailed,
    InvalidArgument,
    InvalidCard,
    LeapZooError,
    NotPulled,
    UnknownModel,
    short,
)
from leap_zoo.files import check_path, check_place, failing_as, write_file
from leap_zoo.loading import choose_artifact
from leap_zoo.locks import locked
from leap_zoo.progress import Progress
from leap_zoo.settings import read_settings, zoo_location
from leap_zoo.store import Cache, ModelFolder, Zoo, check_card, default_model, find_all

CARD, SIGNATURE = "card.json", "model.sig"
# How these files begin, unlike a host's error page.
_STARTS = {SIGNATURE: (b"{",), "curriculum.svg": (b"<?xml", b"<svg"), "README.md": (b"",)}
_WRITE = "choose another folder with --to"

_Choose = Callable[[ModelCard, Callable[[Artifact], bool]], list[File]]


@dataclass(frozen=True)
class PulledFile:
    """A checked file on this device. `downloaded`: it was not there before."""

    file: str
    bytes: int
    sha256: str
    path: str
    downloaded: bool


@dataclass(frozen=True)
class Pulled:
    """The result of `pull`. `signed`: the zoo has a signature for the card; `leap_zoo.verify` checks it."""

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
    everything: bool = False,
    shown: bool = False,
) -> Pulled:
    """Fetch a model's card, its golden file, and one artifact: the one that `load` would choose.

    name: default: the source's only model, else leap-zoo's default model.
    source: a folder, a file://, http(s):// or hf://OWNER/NAME URL, of a zoo or of one model; default: LEAP_ZOO_URL,
        or without it, the models on this device.
    to: write the files to the folder to/NAME, with the card, its signature and README.md, and do not touch the cache.
    precision, format: choose another artifact, or `timm` for timm's files; everything: all files.
    shown: draw a progress bar if stderr is a terminal.
    LEAP_ZOO_OFFLINE=1: no server is asked; this succeeds if everything is already here.
    Raises UnknownModel, InvalidArgument, InvalidCard, ArtifactCorrupt, DownloadFailed, CacheUnusable, MissingExtra.
    """
    if name is not None and not isinstance(name, str):
        raise InvalidArgument(f"a model must be a string, not {type(name).__name__}")
    if to is not None:
        check_place(to, "--to")
    settings = read_settings()
    place = source if source is not None else settings.zoo or settings.url
    if everything and (precision or format):
        raise InvalidArgument("conflicting options: give precision and format, or all")
    choose = partial(_files, precision=precision, format=format, everything=everything)
    offline = place is not None and settings.offline and isinstance(zoo_location(place, "--from"), str)
    if offline and name is None:
        raise DownloadFailed("LEAP_ZOO_OFFLINE is 1, and only the server knows its models: name the model")
    if place is None or offline:
        return _from_here(default_model() if name is None else name, choose, to, offline=offline)
    with open_zoo(place) as zoo:
        model = _choose(zoo, zoo.entry(name), choose, to)
        cache = Cache(settings.home)
        if to is not None:
            return _into_folder(check_path(to), cache, zoo, model, shown)
        arrived = _fetch_all(cache, zoo, model, shown)
        if not cache.blob(model.entry.sha256).exists():
            arrived.add(model.entry.sha256)
        cache.record(model.entry, model.data, model.card, model.files, model.others[SIGNATURE])
        return _pulled(model, cache, arrived)


@dataclass(frozen=True)
class _Chosen:
    """A model of a source: its published card, the files to fetch, and the files that no card lists."""

    source: str
    entry: IndexEntry
    data: bytes
    card: ModelCard
    files: list[File]
    others: dict[str, bytes | None]


def _choose(zoo: Zoo, entry: IndexEntry, choose: _Choose, to: str | os.PathLike[str] | None) -> _Chosen:
    data = zoo.card_bytes(entry)
    card = check_card(entry, data)
    files = choose(card, lambda artifact: zoo.holds(card, artifact))
    others = {name: zoo.other(entry, name) for name in ([SIGNATURE] if to is None else _STARTS)}
    others = {name: data if data and data.lstrip().startswith(_STARTS[name]) else None for name, data in others.items()}
    return _Chosen(zoo.name, entry, data, card, files, others)


def _into_folder(to: Path, cache: Cache, zoo: Zoo, model: _Chosen, shown: bool) -> Pulled:
    """Pull into a folder. Downloads stay in DIR/.leap-zoo until the model is complete, and can be resumed there."""
    scratch = Cache(to.absolute() / ".leap-zoo", _WRITE)
    made = [folder for folder in scratch.folder.parents if not os.path.lexists(folder)]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        with scratch.usable():
            scratch.folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(scratch.folder.with_suffix(".lock")))
        scratch.prepare(0)
        stack.callback(_remove_empty, [*scratch.folder.iterdir(), scratch.folder])
        for file in model.files:
            with contextlib.suppress(ArtifactCorrupt, NotPulled), scratch.usable():
                write_file(scratch.blob(file.sha256), cache.read(model.card, file))
        arrived = _fetch_all(scratch, zoo, model, shown)
        try:
            return _pulled(model, _written(to, scratch, model), arrived)
        finally:
            scratch.discard(file.sha256 for file in model.files)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _written(to: str | os.PathLike[str], zoo: Zoo, model: _Chosen) -> Zoo:
    """Write the files of a model from `zoo` to the folder to/NAME; a new folder is all or nothing.

    Files of an earlier revision are removed; unrelated files stay. Raises ArtifactCorrupt, and InvalidArgument if the
    folder cannot be written, or exists but is not a model's.
    """
    card, folder = model.card, check_path(to)
    home, staging = folder / card.id, folder / f".{card.id}-{os.urandom(8).hex()}"
    with failing_as(InvalidArgument, f"cannot write to {short(to)}", _WRITE):
        if os.path.lexists(home) and (not home.is_dir() or (not (home / CARD).exists() and any(home.iterdir()))):
            raise InvalidArgument(f"{short(home)} exists and is not a model's folder: remove it, or {_WRITE}")
        staging.mkdir(parents=True)
        try:
            contents = model.others | {CARD: model.data}
            for name, data in contents.items():
                if data is not None:
                    write_file(staging / name, data)
            for file in model.files:
                write_file(staging / file.file, zoo.read(card, file))
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
        stale |= {file.file for file in read_card(home / CARD).files if ours.get(file.file) != file.sha256}
    for path in sorted(staging.iterdir(), key=lambda path: path.name == CARD):
        os.replace(path, home / path.name)
        stale.discard(path.name)
    for name in stale:
        (home / name).unlink(missing_ok=True)


def _from_here(name: str, choose: _Choose, to: str | os.PathLike[str] | None, *, offline: bool) -> Pulled:
    """Without a source: use what is already on this device. Raises UnknownModel, InvalidArgument, DownloadFailed."""
    failed: LeapZooError = InvalidArgument(f"{short(name)} is on this device, but not the requested files")
    try:
        for zoo, card in find_all(name):
            try:
                model = _choose(zoo, zoo.entry(name), choose, to)
            except InvalidArgument:  # another zoo may have more files of the same model
                continue
            if all(zoo.has(card, file) for file in model.files):
                for file in model.files:
                    zoo.read(card, file)
                return _pulled(model, zoo if to is None else _written(to, zoo, model))
    except UnknownModel as error:
        failed = error
    if offline:
        raise DownloadFailed(f"{failed}, and LEAP_ZOO_OFFLINE is 1: unset it, or give --from FOLDER")
    raise type(failed)(f"{failed}; to fetch it, give --from URL_OR_FOLDER or set LEAP_ZOO_URL")


def _files(
    card: ModelCard,
    held: Callable[[Artifact], bool],
    precision: str | None,
    format: str | None,
    everything: bool,
) -> list[File]:
    """The files to fetch. held: whether the zoo has an artifact. Raises InvalidArgument if there is no such file."""
    if everything:
        return card.files
    if format == "timm":
        chosen = card.timm if precision in (None, "fp32") else []
        if not chosen:
            raise InvalidArgument(f"{card.id} has no files for timm" + (f" of {precision}" if card.timm else ""))
    else:
        chosen = choose_artifact(card, precision, format, held).files
    return [*(one for one in chosen if one != card.golden), card.golden]


def _fetch_all(cache: Cache, zoo: Zoo, model: _Chosen, shown: bool) -> set[str]:
    """Fetch the files that the cache does not have; returns their digests."""
    cache.prepare(sum(file.bytes for file in model.files if not cache.has(model.card, file)))
    arrived: set[str] = set()
    try:
        with Progress(sum(file.bytes for file in model.files), shown=shown, scale=1e6, unit="MB") as progress:
            for file in model.files:
                if download(zoo, model.card, file, cache, progress):
                    arrived.add(file.sha256)
    except ArtifactCorrupt:
        cache.discard(arrived)
        raise
    return arrived


def _pulled(model: _Chosen, place: Zoo, arrived: Collection[str] = ()) -> Pulled:
    card = File(file=CARD, bytes=model.entry.bytes, sha256=model.entry.sha256)
    return Pulled(
        model=model.entry.id,
        revision=model.entry.revision,
        source=model.source,
        signed=model.others[SIGNATURE] is not None,
        files=[
            PulledFile(
                file=one.file,
                bytes=one.bytes,
                sha256=one.sha256,
                path=str(place.path(model.entry.id, one.file, one.sha256)),
                downloaded=one.sha256 in arrived,
            )
            for one in [card, *model.files]
        ],
    )
