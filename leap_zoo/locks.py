"""A lock between processes, on a file. The system releases it when the holder ends, for whatever reason."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_SECONDS_BETWEEN = 0.05

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _try(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock; wait while another process holds it. With wait=False, yield False at once instead.

    The file is created, and removed afterward. Raises OSError.
    """
    while True:
        with path.open("a+b") as file:
            while not (mine := _try(file.fileno())) and wait:
                time.sleep(_SECONDS_BETWEEN)
            if mine and not _is_still(path, file.fileno()):
                continue  # the previous holder has removed the file, so our lock excludes no one
            try:
                yield mine
            finally:
                if mine and sys.platform != "win32":
                    path.unlink(missing_ok=True)  # while locked, so that no other process's file is removed
            break
    if mine and sys.platform == "win32":  # where an open file cannot be removed, neither ours nor another process's
        with contextlib.suppress(OSError):
            path.unlink()


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file still has its name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
