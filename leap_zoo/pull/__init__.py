"""Fetch a model from a zoo elsewhere into this device's cache, where `load` finds it.

index -> card -> files, each checked by what came before; the model is listed when everything is there, so that nobody
ever sees a part of one. What is refused leaves nothing; what was interrupted goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leap_zoo.cache import Cache, CachedZoo
from leap_zoo.card import MAX_DOCUMENT_BYTES, Artifact, File, Format, IndexEntry, ModelCard, Precision
from leap_zoo.documents import parse_index
from leap_zoo.errors import (
    ArtifactCorrupt,
    CacheUnusable,
    DownloadFailed,
    InvalidArgument,
    UnknownModel,
    nearest,
    short,
)
from leap_zoo.model import choose_artifact
from leap_zoo.progress import Progress
from leap_zoo.pull.sources import Source, open_source
from leap_zoo.pull.unfinished import partial
from leap_zoo.settings import DEFAULT_MODEL, read_settings
from leap_zoo.zoo import MAX_SIGNATURE_BYTES, check_card, check_digest

_ROUNDS = 3  # another process may prune what this one is about to list


@dataclass(frozen=True)
class PulledFile:
    """A file that is in the cache now, checked. `downloaded`: it was not there before."""

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
    name: str = DEFAULT_MODEL,
    source: str | os.PathLike[str] | None = None,
    *,
    precision: Precision | None = None,
    format: Format | None = None,
    file: str | None = None,
    everything: bool = False,
    shown: bool = False,
) -> Pulled:
    """Fetch the card of a model, its golden file, and one artifact: the one that `load` would choose.

    source: a folder, a file://, http(s):// or hf://org/repo URL; default: LEAP_ZOO_URL.
    precision, format: another artifact; file: the artifact that has this file; everything: all of them.
    shown: a progress bar, where stderr is a terminal.
    LEAP_ZOO_OFFLINE=1: a server is not asked; it is enough when everything is here.
    Raises UnknownModel, InvalidArgument, InvalidCard, ArtifactCorrupt, DownloadFailed, CacheUnusable, MissingExtra.
    """
    settings = read_settings()
    place = source if source is not None else settings.zoo or settings.url
    if place is None:
        raise InvalidArgument("pull from where? Give --from URL_OR_FOLDER, or set LEAP_ZOO_URL")
    choose = _chooser(precision, format, file, everything)
    cache = Cache(settings.home)
    with contextlib.closing(open_source(place)) as opened:
        if opened.remote and settings.offline:
            return _without_network(cache, opened, name, choose)
        cache.prepare()
        for _ in range(_ROUNDS):
            pulled = _pull(cache, opened, name, choose, shown)
            if pulled is not None:
                return pulled
    raise CacheUnusable(f"other processes keep removing files from {short(cache.home)}: end them, and pull again")


def _pull(
    cache: Cache, source: Source, name: str, choose: Callable[[ModelCard], list[Artifact]], shown: bool
) -> Pulled | None:
    entry, data = _card(source, name)
    card = check_card(entry, data)
    files = _files(card, choose(card))
    signature = _signature(source, name)
    cache.check_room(sum(file.bytes for file in files if not cache.has(file)))
    arrived: set[str] = set()
    try:
        with Progress(sum(file.bytes for file in files), shown=shown, scale=1e6, unit="MB") as progress:
            for file in files:
                if _fetch(cache, source, card, file, progress):
                    arrived.add(file.sha256)
    except ArtifactCorrupt:
        cache.discard(arrived)
        raise
    if not cache.record(entry, data, files, signature):
        return None
    return _pulled(cache, source, entry, data, files, {*arrived, entry.sha256}, signed=signature is not None)


def _card(source: Source, name: str) -> tuple[IndexEntry, bytes]:
    """What the source's index says about the model, and its card's bytes, checked."""
    index = source.read("index.json", MAX_DOCUMENT_BYTES)
    if index is None:
        raise InvalidArgument(f"{short(source.name)} is no zoo, it has no index.json: check --from or LEAP_ZOO_URL")
    entries = {entry.id: entry for entry in parse_index(index, f"{source.name}/index.json").models}
    if name not in entries:
        raise UnknownModel(f"{short(source.name)} has no model {short(name)}{nearest(name, entries)}")
    entry = entries[name]
    data = source.read(f"{entry.id}/card.json", entry.bytes)
    if data is None:
        raise ArtifactCorrupt(f"card.json of {entry.id} is listed by the index, but it is not there: refused")
    check_digest(f"card.json of {entry.id}", data, entry.sha256, "pull again, or ask whoever runs the zoo")
    return entry, data


def _files(card: ModelCard, artifacts: Sequence[Artifact]) -> list[File]:
    return [*(file for artifact in artifacts for file in artifact.files), card.golden]


def _chooser(
    precision: str | None, format: str | None, file: str | None, everything: bool
) -> Callable[[ModelCard], list[Artifact]]:
    """What picks the artifacts of a card. Raises InvalidArgument for choices that exclude one another."""
    if ((precision or format) and (file or everything)) or (file and everything):
        raise InvalidArgument("pull what? Give precision and format, or one file, or all")

    def choose(card: ModelCard) -> list[Artifact]:
        if everything:
            return card.artifacts
        return [_with_file(card, file) if file else choose_artifact(card, precision, format)]

    return choose


def _with_file(card: ModelCard, name: str) -> Artifact:
    found = next((one for one in card.artifacts if name in [file.file for file in one.files]), None)
    if found is None:
        known = [file.file for artifact in card.artifacts for file in artifact.files]
        raise InvalidArgument(f"{card.id} has no file {short(name)}{nearest(name, known)}")
    return found


def _signature(source: Source, model: str) -> bytes | None:
    """The model's signature. A page that some hosts give for what is not there is none."""
    data = source.read(f"{model}/model.sig", MAX_SIGNATURE_BYTES, optional=True)
    return data if data is not None and data.lstrip().startswith(b"{") else None


def _fetch(cache: Cache, source: Source, card: ModelCard, file: File, progress: Progress) -> bool:
    """Whether the file had to be fetched; it is in the cache now, checked."""
    path = f"{card.id}/{file.file}"
    with partial(cache, file) as download:
        if download is None:
            progress.step(file.bytes)
            return False
        progress.step(download.size)
        source.fetch(path, file, download, progress)
        try:
            download.finish()
        except ArtifactCorrupt:
            if not download.resumed:
                raise
            # What an earlier process left may be of another version, or damaged: this time from the first byte.
            progress.step(-download.size)
            download.begin(None)
            source.fetch(path, file, download, progress)
            download.finish()
        return True


def _without_network(cache: Cache, source: Source, name: str, choose: Callable[[ModelCard], list[Artifact]]) -> Pulled:
    zoo = CachedZoo(cache)
    entry = next((entry for entry in zoo.index().models if entry.id == name), None)
    if entry is not None:
        data = zoo.card_bytes(entry)
        card = check_card(entry, data)
        files = _files(card, choose(card))
        if all(cache.has(file) for file in files):
            for file in files:
                zoo.read(card, file)
            return _pulled(cache, source, entry, data, files, set(), signed=zoo.signature(entry) is not None)
    raise DownloadFailed(
        f"LEAP_ZOO_OFFLINE is 1, and what was asked for of {short(name)} is not in {short(cache.home)}: unset it, or "
        "give --from FOLDER"
    )


def _pulled(
    cache: Cache, source: Source, entry: IndexEntry, card: bytes, files: list[File], arrived: set[str], *, signed: bool
) -> Pulled:
    listed = [("card.json", len(card), entry.sha256), *((file.file, file.bytes, file.sha256) for file in files)]
    return Pulled(
        model=entry.id,
        revision=entry.revision,
        source=source.name,
        signed=signed,
        files=[
            PulledFile(name, size, sha256, str(cache.blob(sha256)), sha256 in arrived) for name, size, sha256 in listed
        ],
    )
