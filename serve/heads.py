"""Heads that clients create, by name, for their own classes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leap_zoo.errors import InvalidHead, UnknownHead, nearest
from leap_zoo.files import atomic_file, sync_folder
from leap_zoo.heads import SUFFIX, CustomHead, encode_head
from leap_zoo.locks import locked
from serve.kept import Limits, logger, name_of, stem_of, unavailable
from serve.problems import Refused

HELD_BYTES = 32 * 2**20  # of the heads that stay in memory between requests; most have a few KB


@dataclass(frozen=True)
class Named:
    """A head, its name, and the bytes of its file."""

    name: str
    head: CustomHead
    bytes: int


class Heads:
    """The heads of the service. All methods block (`get` only briefly); several threads and processes may call them.

    A file is read again only if it has changed, or if many large heads are in use.
    The methods raise Refused: 422 for an invalid name, 409 for a name that is taken and for a limit that would be
    exceeded, 503 if the disk fails, 500 for a damaged file; and UnknownHead.
    """

    def __init__(self, folder: Path, work: Path, limits: Limits) -> None:
        """folder: of the files; must exist. Files that a killed writer left are removed. Raises OSError."""
        self._folder, self._lock = folder, work / "lock"
        self.limits = limits
        self._guard = threading.Lock()
        self._held: dict[Path, tuple[tuple[int, int, int], CustomHead]] = {}  # the last used one last
        with locked(self._lock):
            self._sweep()

    def get(self, name: str) -> Named:
        """The head."""
        path = self._place(name)
        with self._refusing(name):
            status = os.stat(path)
            try:
                head = self._load(path, (status.st_ino, status.st_mtime_ns, status.st_size))
            except InvalidHead as error:
                path.stat()  # raises if the file was deleted while it was read
                if isinstance(error.__cause__, OSError):
                    raise unavailable(error) from error
                logger.error("the head %r cannot be used: %s", name, error)
                raise Refused("head_damaged", "The head's file is damaged. See the server's log.") from error
            return Named(name, head, status.st_size)

    def list(self) -> Sequence[Named]:
        """All heads, sorted by name, except damaged ones."""
        found = []
        for name in self._names():
            with contextlib.suppress(UnknownHead, Refused):
                found.append(self.get(name))
        return found

    def create(self, name: str, head: CustomHead, *, replace: bool = False) -> Named:
        """Store a head durably. replace: overwrite one with the same name."""
        data = encode_head(head)
        if len(data) > self.limits.head_bytes:
            detail = f"A head has at most {self.limits.head_bytes} bytes: use fewer classes."
            raise Refused("head_too_large", detail)
        with self._refusing(name), locked(self._lock):
            self._sweep()
            self.check_room(name, replace=replace)
            with atomic_file(self._place(name)) as file:
                file.write(data)
            sync_folder(self._folder)
        return Named(name, head, len(data))

    def check_room(self, name: str, *, replace: bool = False) -> None:
        """Check that a head with this name could be created, before the cost of fitting it. Raises Refused (409)."""
        there = self._place(name).exists()
        if there and not replace:
            detail = f"The head {name} already exists: delete it, choose another name, or send replace=true."
            raise Refused("head_exists", detail)
        if not there and len(self._names()) >= self.limits.heads:
            detail = f"There are {self.limits.heads} heads, which is the limit: delete one first."
            raise Refused("too_many_heads", detail)

    def delete(self, name: str) -> None:
        """Delete a head, even if its file is damaged."""
        path = self._place(name)
        with self._refusing(name), locked(self._lock):
            path.unlink()
            sync_folder(self._folder)

    def _load(self, path: Path, version: tuple[int, int, int]) -> CustomHead:
        """The head, from memory if this version of its file is there. Raises InvalidHead."""
        with self._guard:
            held, head = self._held.pop(path, (None, None))
        if head is None or held != version:
            head = CustomHead.load(path)
        with self._guard:
            self._held[path] = version, head
            while sum(size for (_, _, size), _ in self._held.values()) > HELD_BYTES:
                del self._held[next(iter(self._held))]
        return head

    @contextlib.contextmanager
    def _refusing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or not self._folder.is_dir():
                raise unavailable(error) from error
            raise UnknownHead(f"no client has created a head {name}{nearest(name, self._names())}") from None

    def _names(self) -> Sequence[str]:
        stems = (path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}"))
        return sorted(name for name in map(name_of, stems) if name is not None)

    def _place(self, name: str) -> Path:
        return self._folder / f"{stem_of(name)}{SUFFIX}"

    def _sweep(self) -> None:
        """Remove the files that a killed writer left. The caller holds the lock."""
        for left in self._folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
