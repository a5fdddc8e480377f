"""The models that this server hands out: which files clients may request, each checked against its card."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from leap_zoo import store
from leap_zoo.card import Index, IndexEntry
from leap_zoo.store import BUNDLED, Zoo
from serve.settings import ServeSettings

logger = logging.getLogger("leap_zoo.serve")


@dataclass(frozen=True)
class Listed:
    """A file of a model. `sha256` is None for files without a published digest: README.md and model.sig."""

    path: Path
    sha256: str | None


@dataclass(frozen=True)
class Found:
    """A file that may be sent: a regular file inside its zoo, with the published digest."""

    path: Path
    status: os.stat_result
    sha256: str


class Shelf:
    """The models of several zoos as one zoo, read at creation; of two models with the same id, the first is used."""

    def __init__(self, zoos: Sequence[Zoo], first: str | None = None) -> None:
        """first: the model that the index lists first. Raises a LeapZooError if a zoo cannot be read."""
        first = first or store.default_model()
        entries: dict[str, IndexEntry] = {}
        self._listed: dict[tuple[str, str], Listed] = {}
        for zoo in zoos:
            for entry in zoo.index().models:
                if entry.sha256 != entries.setdefault(entry.id, entry).sha256:
                    continue
                card = zoo.card(entry)
                digests = {file.file: file.sha256 for file in card.files} | {"card.json": entry.sha256}
                for name, path in zoo.paths(entry, card).items():
                    self._listed.setdefault((entry.id, name), Listed(path, digests.get(name)))
        models = sorted(entries.values(), key=lambda entry: (entry.id != first, entry.id))
        self.index = msgspec.json.format(msgspec.json.encode(Index(models=models)))

    def offers(self, model: str, file: str, sha256: str) -> bool:
        """Whether this file of a model, with this digest, is listed. Does not read the file."""
        listed = self._listed.get((model, file))
        return listed is not None and listed.sha256 == sha256

    def find(self, model: str, file: str) -> Found | None:
        """A file of a model; None if no card lists it or its digest differs. Reads the whole file the first time."""
        listed = self._listed.get((model, file))
        if listed is None:
            return None
        path = listed.path
        try:
            status = path.stat()
            inside = path.resolve().is_relative_to(path.parent.parent.resolve())
            if not stat.S_ISREG(status.st_mode) or not inside:
                return None
            digest = _digest(path, status.st_mtime_ns, status.st_size, status.st_ino)
        except (OSError, RuntimeError):
            return None
        if listed.sha256 not in (None, digest):
            logger.error("%s of %s is corrupt and is not served: copy the model's folder again", file, model)
            return None
        return Found(path, status, digest)


def zoos_to_hand_on(settings: ServeSettings) -> list[Zoo]:
    """The zoos of LEAP_ZOO_SERVE_ZOO and the bundled one; if it is unset, the zoos that models are served from.

    Raises a LeapZooError when there is none.
    """
    if not settings.zoo:
        return store.zoos()
    named = [Zoo(folder) for folder in settings.zoo]
    return [*named, Zoo(BUNDLED)] if (BUNDLED / "index.json").is_file() else named


@lru_cache(1024)
def _digest(path: Path, *version: int) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
