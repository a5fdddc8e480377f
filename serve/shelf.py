"""The zoos that this server hands on as one: which files may be asked for, and that each is what its card says."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from leap_zoo.card import OTHER_FILES, Index, IndexEntry
from leap_zoo.errors import LeapZooError
from leap_zoo.settings import read_settings
from leap_zoo.zoo import BUNDLED, Zoo
from serve.settings import ServeSettings

logger = logging.getLogger("leap_zoo.serve")

_State = tuple[int, int, int]


@dataclass(frozen=True)
class Listed:
    """A file of a model. `sha256` is None for those that no digest is published of: README.md and model.sig."""

    path: Path
    sha256: str | None


@dataclass(frozen=True)
class Found:
    """A file that may be sent now: a regular one, inside its zoo, and with the digest that was published."""

    path: Path
    status: os.stat_result
    sha256: str


class Shelf:
    """The models of `folders` as one zoo; of two with the same id the first counts. For several threads.

    A zoo that changes is read again; one that is broken then stays as it was, and the log says why.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises a LeapZooError when a folder is no zoo."""
        self._zoos = [Zoo(folder) for folder in folders]
        self._lock = threading.Lock()
        self._digests: dict[Path, tuple[_State, str]] = {}
        self._states = self._look()
        self._index, self._listed = self._read()

    def index(self) -> bytes:
        """The index.json of all of them."""
        self._follow()
        return self._index

    def find(self, model: str, file: str) -> Found | None:
        """A file of a model, None where no card lists it or it is not as published. Reads it whole the first time."""
        self._follow()
        listed = self._listed.get((model, file))
        if listed is None:
            return None
        path = listed.path
        try:
            status = path.stat()
            inside = path.resolve().is_relative_to(path.parent.parent.resolve())
            if not stat.S_ISREG(status.st_mode) or not inside:
                return None
            digest = self._digest(path, status)
        except (OSError, RuntimeError):
            return None
        if listed.sha256 not in (None, digest):
            logger.error("%s of %s is corrupt, and not handed on: copy the model's folder again", file, model)
            return None
        return Found(path, status, digest)

    def _digest(self, path: Path, status: os.stat_result) -> str:
        state = _state(status)
        known = self._digests.get(path)
        if known is None or known[0] != state:
            with path.open("rb") as data:
                known = state, hashlib.file_digest(data, "sha256").hexdigest()
            self._digests[path] = known
        return known[1]

    def _follow(self) -> None:
        with self._lock:
            states = self._look()
            if states == self._states:
                return
            self._states = states
            try:
                self._index, self._listed = self._read()
            except LeapZooError as error:
                logger.error("the zoo at /zoo stays as it was: %s", error)

    def _look(self) -> list[_State | None]:
        return [_look(zoo.folder / "index.json") for zoo in self._zoos]

    def _read(self) -> tuple[bytes, dict[tuple[str, str], Listed]]:
        entries: dict[str, IndexEntry] = {}
        listed: dict[tuple[str, str], Listed] = {}
        for zoo in self._zoos:
            for entry in zoo.index().models:
                if entry.id in entries:
                    continue
                entries[entry.id] = entry
                home = zoo.folder / entry.id
                digests = {file.file: file.sha256 for file in zoo.card(entry).files}
                for name, sha256 in (dict.fromkeys(OTHER_FILES) | digests | {"card.json": entry.sha256}).items():
                    listed[entry.id, name] = Listed(home / name, sha256)
        models = sorted(entries.values(), key=lambda entry: entry.id)
        return msgspec.json.format(msgspec.json.encode(Index(models=models))), listed


def zoo_folders(settings: ServeSettings) -> list[Path]:
    """The zoos to hand on: those of LEAP_ZOO_SERVE_ZOO, else the folder that models are served from; the bundled."""
    served = read_settings().zoo
    folders = list(settings.zoo) or ([served] if served is not None else [])
    return [*folders, BUNDLED] if (BUNDLED / "index.json").is_file() else folders


def _look(path: Path) -> _State | None:
    try:
        return _state(path.stat())
    except OSError:
        return None


def _state(status: os.stat_result) -> _State:
    return status.st_mtime_ns, status.st_size, status.st_ino
