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
    descriptor = _acquire(path, wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        if sys.platform != "win32":
            path.unlink(missing_ok=True)  # while locked, so that no other process's file is removed
        os.close(descriptor)
        if (
            sys.platform == "win32"
        ):  # Windows: an open file cannot be removed, neither ours before closing nor another process's now
            with contextlib.suppress(OSError):
                path.unlink()


def _acquire(path: Path, wait: bool) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not (mine := _try(descriptor)) and wait:
                time.sleep(_SECONDS_BETWEEN)
            if mine and _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not mine:
            return None


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file still has its name.

    The previous holder may have removed it, and then our lock excludes no one.
    """
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
