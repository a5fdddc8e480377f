"""Who may write under a name: one thread of one process at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leap_zoo.locks import locked


class Turns:
    """Locks by name. Between threads first, so that only one of a process waits for other processes."""

    def __init__(self, folder: Path) -> None:
        """folder: where a lock's file lies while it is held."""
        self._folder = folder
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._users: Counter[str] = Counter()

    def sweep(self) -> None:
        """Take away the files of locks whose holders were killed."""
        for path in self._folder.glob("*.lock"):
            with locked(path, wait=False):
                pass

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Hold the lock called `name` (a stem: it is the name of a file). Raises OSError."""
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
            self._users[name] += 1
        try:
            with lock, locked(self._folder / f"{name}.lock"):
                yield
        finally:
            with self._guard:
                self._users[name] -= 1
                if not self._users[name]:  # else the names of all that ever was would stay
                    del self._users[name], self._locks[name]
