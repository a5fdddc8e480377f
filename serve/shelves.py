"""Where galleries lie by name: folders in a folder, or collections of a Qdrant server."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from leap_zoo.card import Name
from leap_zoo.errors import InvalidArgument, InvalidGallery
from leap_zoo.files import sync_folder
from leap_zoo.gallery import Gallery, Kind
from leap_zoo.gallery.flat import MANIFEST, FlatGallery, read_manifest
from leap_zoo.gallery.qdrant import QdrantGallery, asking, connect
from serve.problems import Refused

logger = logging.getLogger("leap_zoo.serve")

HELD = 8  # galleries whose ids and metadata stay in memory between requests
QDRANT_PREFIX = "leap-zoo-"  # of our collections on a server that may hold others
MAX_COLLECTION = 128  # characters
_DELETED = ".deleted-"

_STEM = re.compile(r"\A(?:[a-z0-9-]|_[a-z0_])+\Z")
_ESCAPED = {"_": "__", ".": "_0"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPED.items()}


@dataclass(frozen=True)
class About:
    """What a gallery is: its name, whose embeddings it holds, how many, their bytes on the disk (None: elsewhere)."""

    name: str
    kind: Kind
    items: int
    bytes: int | None


class Shelf(Protocol):
    """Galleries by name. Whoever makes or drops one holds its turn. Methods raise InvalidGallery, Refused, OSError."""

    attempts: int  # at reading one that others may replace at that moment

    def names(self) -> list[str]:
        """Sorted."""

    def about(self, name: str) -> About | None:
        """What it is, as cheaply as can be; None when there is none."""

    def open(self, name: str) -> Gallery | None:
        """Its newest state; None when there is none."""

    def make(self, name: str, kind: Kind) -> Gallery:
        """A new, empty one, which is there for good."""

    def drop(self, name: str) -> bool:
        """Take it away, whatever state it is in; whether there was one. Searches that run may end or fail."""

    def used(self) -> int:
        """Bytes on the disk of all together; 0 where they lie elsewhere."""

    def explain(self, name: str, error: InvalidGallery) -> Refused:
        """What a client is told about an error that it did not cause."""

    def close(self) -> None:
        """Let go of connections."""


def unavailable(error: Exception) -> Refused:
    """The place cannot be read or written just now; the log says why."""
    logger.error("what clients leave here cannot be read or written: %s", error)
    detail = "What is kept here cannot be read or written just now. Try again later."
    return Refused(503, "store_unavailable", detail, {"retry-after": "10"})


class FolderShelf:
    """A folder of folders. A few galleries stay loaded: their files are verified once, not at every search."""

    attempts = 5

    def __init__(self, folder: Path) -> None:
        """folder: is there already. What a killed process had begun to delete is taken away."""
        self._folder = folder
        self._guard = threading.Lock()
        self._held: OrderedDict[str, FlatGallery] = OrderedDict()
        self._sweep()

    def names(self) -> list[str]:
        """See `Shelf.names`. A folder without a manifest is incomplete (the writer was killed) and is ignored."""
        stems = (entry.name for entry in os.scandir(self._folder) if os.path.isfile(os.path.join(entry, MANIFEST)))
        return sorted(name for name in map(name_of, stems) if name is not None)

    def about(self, name: str) -> About | None:
        """See `Shelf.about`: the manifest alone is read."""
        try:
            manifest = read_manifest(self._place(name))
        except InvalidGallery:
            if self._is_there(name):
                raise
            return None
        size = sum(file.bytes for file in manifest.files())
        return About(name, manifest.kind, manifest.count, size)

    def open(self, name: str) -> FlatGallery | None:
        """See `Shelf.open`."""
        with self._guard:
            gallery = self._held.get(name)
        if gallery is not None:
            with contextlib.suppress(InvalidGallery):  # deleted meanwhile, perhaps made anew with another model
                gallery.snapshot()
                return gallery
            self._forget(name)
        if not self._is_there(name):
            return None
        try:
            return self._keep(name, FlatGallery(self._place(name)))
        except InvalidGallery:
            if self._is_there(name):
                raise
            return None

    def make(self, name: str, kind: Kind) -> FlatGallery:
        """See `Shelf.make`."""
        self._sweep()
        gallery = FlatGallery(self._place(name), kind)
        sync_folder(self._folder)
        return self._keep(name, gallery)

    def drop(self, name: str) -> bool:
        """See `Shelf.drop`. It is gone at once; its files follow."""
        there = self._is_there(name)
        self._forget(name)
        aside = self._folder / f"{_DELETED}{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._place(name), aside)
            sync_folder(self._folder)
        shutil.rmtree(aside, ignore_errors=True)
        return there

    def used(self) -> int:
        """See `Shelf.used`."""
        return _bytes_below(self._folder)

    def explain(self, name: str, error: InvalidGallery) -> Refused:
        """See `Shelf.explain`."""
        if isinstance(error.__cause__, OSError):
            return unavailable(error)
        logger.error("the gallery %r cannot be used: %s", name, error)
        return Refused(500, "gallery_damaged", "The gallery's files are damaged. The server's log says how.")

    def close(self) -> None:
        """See `Shelf.close`."""
        with self._guard:
            self._held.clear()

    def _place(self, name: str) -> Path:
        return self._folder / stem_of(name)

    def _is_there(self, name: str) -> bool:
        return (self._place(name) / MANIFEST).is_file()

    def _keep(self, name: str, gallery: FlatGallery) -> FlatGallery:
        with self._guard:
            self._held[name] = gallery
            self._held.move_to_end(name)
            while len(self._held) > HELD:
                self._held.popitem(last=False)
        return gallery

    def _forget(self, name: str) -> None:
        with self._guard:
            self._held.pop(name, None)

    def _sweep(self) -> None:
        for left in self._folder.glob(f"{_DELETED}*"):
            shutil.rmtree(left, ignore_errors=True)


class QdrantShelf:
    """Collections of a server, perhaps shared with other services: every call asks it anew."""

    attempts = 1  # what fails there may take a minute, and the server keeps readers and writers apart

    def __init__(self, url: str) -> None:
        """url: `qdrant://HOST:PORT`; it is not asked yet. Raises InvalidArgument, MissingExtra."""
        self._client, collection = connect(url)
        if collection:
            raise InvalidArgument("the URL names a collection: give the server alone, qdrant://HOST:PORT")

    def names(self) -> list[str]:
        """See `Shelf.names`: collections whose name begins as ours do."""
        with asking("list"):
            collections = [one.name for one in self._client.get_collections().collections]
        ours = (name.removeprefix(QDRANT_PREFIX) for name in collections if name.startswith(QDRANT_PREFIX))
        return sorted(name for name in map(name_of, ours) if name is not None)

    def about(self, name: str) -> About | None:
        """See `Shelf.about`."""
        gallery = self.open(name)
        return None if gallery is None else About(name, gallery.kind, gallery.count(), None)

    def open(self, name: str) -> Gallery | None:
        """See `Shelf.open`."""
        collection = self._collection(name)
        return QdrantGallery(self._client, collection) if self._holds(collection) else None

    def make(self, name: str, kind: Kind) -> Gallery:
        """See `Shelf.make`."""
        return QdrantGallery(self._client, self._collection(name), kind)

    def drop(self, name: str) -> bool:
        """See `Shelf.drop`."""
        collection = self._collection(name)
        there = self._holds(collection)
        with asking(collection):
            self._client.delete_collection(collection)
        return there

    def used(self) -> int:
        """See `Shelf.used`."""
        return 0

    def explain(self, name: str, error: InvalidGallery) -> Refused:
        """See `Shelf.explain`."""
        return unavailable(error)

    def close(self) -> None:
        """See `Shelf.close`."""
        self._client.close()

    def _holds(self, collection: str) -> bool:
        with asking(collection):
            return bool(self._client.collection_exists(collection))

    def _collection(self, name: str) -> str:
        collection = QDRANT_PREFIX + stem_of(name)
        if len(collection) > MAX_COLLECTION:
            raise Refused(422, "invalid_name", "The name is too long for this server: give a shorter one.")
        return collection


NAME = {"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$", "minLength": 1, "maxLength": 64}
"""A name in a path, for the schema; `checked_name` has the last word."""


def checked_name(name: str) -> str:
    """The name. Raises Refused (422) unless it is 1 to 64 letters, digits, `_`, `-` and `.`, the first none of -. ."""
    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        detail = "A name is 1 to 64 letters, digits, underscores, hyphens and dots, and begins with no hyphen or dot."
        raise Refused(422, "invalid_name", detail) from error


def stem_of(name: str) -> str:
    """A name as lower-case letters, digits, `-` and `_`; different for different names.

    A capital letter gets `_` before it, so that `Cats` and `cats` stay apart on disks that take them for the same.
    """
    return "".join(_ESCAPED.get(one) or (f"_{one.lower()}" if one.isupper() else one) for one in checked_name(name))


def name_of(stem: str) -> str | None:
    """The name that has this stem; None when it is not one of ours."""
    if not _STEM.match(stem):
        return None
    name = re.sub(r"_(.)", lambda found: _PLAIN.get(found[0]) or found[1].upper(), stem)
    try:
        return name if stem_of(name) == stem else None
    except Refused:
        return None


def _bytes_below(folder: Path) -> int:
    """The sizes of all files below a folder; files that vanish meanwhile count nothing."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(place, name)).st_size
    return size
