"""What the stores ask of a disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def bytes_below(folder: Path) -> int:
    """The sizes of all files below a folder; files that vanish meanwhile count nothing."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(place, name)).st_size
    return size
