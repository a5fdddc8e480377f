"""Heads that clients create, by name, for their own classes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from leap_zoo.errors import InvalidHead, UnknownHead, nearest
from leap_zoo.files import atomic_file, sync_folder
from leap_zoo.heads import SUFFIX, CustomHead, HeadCard, encode_head
from leap_zoo.locks import locked
from serve.kept import Limits, checked_name, logger, name_of, stem_of, unavailable
from serve.problems import Refused

HELD = 16  # in memory, with their weights; cards of all

T = TypeVar("T")
_Version = tuple[int, int, int]  # of a file: a new file has a new inode


@dataclass(frozen=True)
class Named:
    """A head's name, its card, and the bytes of its file."""

    name: str
    card: HeadCard
    bytes: int


class Heads:
    """The heads of the service. All methods block (`get` only briefly); several threads and processes may call them.

    A file is read only when it has changed.
    The methods raise Refused: 422 for an invalid name, 409 for a name that is taken and for a limit that would be
    exceeded, 503 if the disk fails, 500 for a damaged file; and UnknownHead.
    """

    def __init__(self, folder: Path, work: Path, limits: Limits) -> None:
        """folder: of the files; must exist. Files that a killed writer left are removed. Raises OSError."""
        self._folder, self._lock = folder, work / "lock"
        self.limits = limits

        def load(path: Path, version: _Version) -> CustomHead:
            return CustomHead.load(path)

        def card(path: Path, version: _Version) -> HeadCard:
            return self._head(path, version).card

        self._head = lru_cache(HELD)(load)
        self._card = lru_cache(limits.heads)(card)
        with locked(self._lock):
            self._sweep()

    def get(self, name: str) -> CustomHead:
        """The head."""
        return self._read(name, self._head)[0]

    def show(self, name: str) -> Named:
        """Describe the head."""
        return Named(name, *self._read(name, self._card))

    def list(self) -> Sequence[Named]:
        """All heads, sorted by name, except damaged ones."""
        found = []
        for name in self._names():
            with contextlib.suppress(UnknownHead, Refused):
                found.append(self.show(name))
        return found

    def create(self, name: str, head: CustomHead, *, replace: bool = False) -> Named:
        """Store a head durably. replace: overwrite one with the same name."""
        data = encode_head(head)
        if len(data) > self.limits.head_bytes:
            detail = f"A head has at most {self.limits.head_bytes} bytes: use fewer classes."
            raise Refused(409, "head_too_large", detail)
        try:
            with locked(self._lock):
                self._sweep()
                self.check_room(name, replace=replace)
                with atomic_file(self._place(name)) as file:
                    file.write(data)
                sync_folder(self._folder)
        except OSError as error:
            raise unavailable(error) from error
        return Named(name, head.card, len(data))

    def check_room(self, name: str, *, replace: bool = False) -> None:
        """Check that a head with this name could be created, before the cost of fitting it. Raises Refused (409)."""
        there = self._place(name).exists()
        if there and not replace:
            detail = f"The head {name} already exists: delete it, choose another name, or send replace=true."
            raise Refused(409, "head_exists", detail)
        if not there and len(self._names()) >= self.limits.heads:
            detail = f"There are {self.limits.heads} heads, which is the limit: delete one first."
            raise Refused(409, "too_many_heads", detail)

    def delete(self, name: str) -> None:
        """Delete a head, even if its file is damaged."""
        try:
            with locked(self._lock):
                self._place(name).unlink()
                sync_folder(self._folder)
        except FileNotFoundError:
            raise self._unknown(name) from None
        except OSError as error:
            raise unavailable(error) from error

    def _read(self, name: str, what: Callable[[Path, _Version], T]) -> tuple[T, int]:
        """`what` of the current file, and the file's size in bytes."""
        path = self._place(name)
        try:
            status = os.stat(path)
            return what(path, (status.st_ino, status.st_mtime_ns, status.st_size)), status.st_size
        except FileNotFoundError:
            raise self._unknown(name) from None
        except InvalidHead as error:
            if not path.exists():  # deleted while it was read
                raise self._unknown(name) from None
            if isinstance(error.__cause__, OSError):
                raise unavailable(error) from error
            logger.error("the head %r cannot be used: %s", name, error)
            detail = "The head's file is damaged. See the server's log."
            raise Refused(500, "head_damaged", detail) from error
        except OSError as error:
            raise unavailable(error) from error

    def _names(self) -> Sequence[str]:
        stems = (path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}"))
        return sorted(name for name in map(name_of, stems) if name is not None)

    def _place(self, name: str) -> Path:
        return self._folder / f"{stem_of(checked_name(name))}{SUFFIX}"

    def _unknown(self, name: str) -> UnknownHead:
        return UnknownHead(f"no client has created a head {name}{nearest(name, self._names())}")

    def _sweep(self) -> None:
        """Remove the files that a killed writer left. The caller holds the lock."""
        for left in self._folder.glob(f".*{SUFFIX}.*"):
            left.unlink(missing_ok=True)
