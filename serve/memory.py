"""That memory which a large photo took goes back to the system when the photo is gone."""

from __future__ import annotations

import ctypes
import gc
import threading
import time

LARGE = 2**20  # bytes; an eighth of it would slow each photo of 224 pixels down
ARENAS = 2
PAUSE = 1.0  # seconds between two trims at least, and from a large body to its trim

# As of <malloc.h> of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

_large_freed = threading.Event()


def return_memory() -> bool:
    """Have `malloc` ask the system for each large block, and give it back when it is freed. False where it is no glibc.

    By default glibc learns from the first large block that is freed to keep such blocks (up to 32 MiB) in the heap of
    their thread, where small ones that live longer then hold them: a server that has once met photos of 50 megapixels
    stays larger for ever. Call it before there are threads.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):  # another libc, macOS, Windows
        return False
    settings = ((_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, LARGE), (_ARENA_MAX, ARENAS))
    done = min(mallopt(which, value) for which, value in settings) == 1  # all of them are called

    def keep_trimming() -> None:
        while _large_freed.wait():
            time.sleep(PAUSE)
            _large_freed.clear()
            trim(0)

    threading.Thread(target=keep_trimming, name="trim", daemon=True).start()
    return done


def freed(size: int) -> None:
    """Say that a body of `size` bytes is gone. It came in small pieces, which lie in the heap: that is trimmed soon."""
    if size > LARGE:
        _large_freed.set()


def settle() -> None:
    """Spare the collector what is there now: what start-up made stays to the end. Call it when start-up is over."""
    gc.collect()
    gc.freeze()
    gc.collect()  # it runs in full when there is a quarter more than after the last time: now there is nothing
