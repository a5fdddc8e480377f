"""That memory which a large photo took goes back to the system when the photo is gone."""

from __future__ import annotations

import ctypes
import gc

LARGE = 2**20  # bytes; an eighth of it would slow each photo of 224 pixels down
ARENAS = 2

# As of <malloc.h> of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def return_memory() -> bool:
    """Have `malloc` ask the system for each large block, and give it back when it is freed. False where it is no glibc.

    By default glibc learns from the first large block that is freed to keep such blocks (up to 32 MiB) in the heap of
    their thread, where small ones that live longer then hold them: a server that has once met photos of 50 megapixels
    stays larger for ever. Call it before there are threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another libc, macOS, Windows
        return False
    settings = ((_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, LARGE), (_ARENA_MAX, ARENAS))
    return min(mallopt(which, value) for which, value in settings) == 1  # all of them are called


def settle() -> None:
    """Spare the collector what is there now: what start-up made stays to the end. Call it when start-up is over."""
    gc.collect()
    gc.freeze()
