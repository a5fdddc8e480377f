"""Galleries in a folder, a folder each."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import uuid
from collections import OrderedDict
from pathlib import Path

from leap_zoo.atomic import sync_folder
from leap_zoo.errors import InvalidGallery
from leap_zoo.gallery import Kind
from leap_zoo.gallery.flat import MANIFEST, FlatGallery, read_manifest
from serve.problems import Refused
from serve.stores.disk import bytes_below
from serve.stores.names import name_of, stem_of
from serve.stores.shelves import About, logger, unavailable

HELD = 8  # galleries whose ids and metadata stay in memory between requests
_DELETED = ".deleted-"


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
        """See `Shelf.names`. A folder without a manifest is none: its maker was killed before it was one."""
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
        return bytes_below(self._folder)

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
