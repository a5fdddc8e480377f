"""What clients store: galleries of their photos' embeddings, and heads for their own classes.

Photos are never kept. Everything is in one data folder, whose format `leap_zoo` defines; galleries may be on a Qdrant
server instead. All methods block while they wait for a disk or a server: call them on the stores' threads, so that the
engine's threads do not wait.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from leap_zoo.errors import InvalidArgument, short
from serve.engine import Threads, lower_priority
from serve.galleries import FolderGalleries, Galleries, QdrantGalleries
from serve.heads import Heads
from serve.kept import Limits, logger

__all__ = ["Limits", "Stores", "open_stores"]

MOST = 64  # pieces of work of each kind, running and waiting
_WAITING = "Too many requests are reading or writing stored data."


@dataclass(frozen=True)
class Stores:
    """The galleries and the heads of one service. One thread writes, because writers take turns anyway."""

    galleries: Galleries
    heads: Heads
    temporary: tempfile.TemporaryDirectory[str] | None = field(repr=False)
    readers: Threads = field(default_factory=partial(Threads, "readers", 8, MOST, _WAITING, lower_priority), repr=False)
    writer: Threads = field(default_factory=partial(Threads, "writer", 1, MOST, _WAITING), repr=False)

    def close(self) -> None:
        """Close connections, and delete the folder if it is temporary."""
        self.readers.close()
        self.writer.close()
        self.galleries.close()
        if self.temporary is not None:
            self.temporary.cleanup()


def open_stores(data: Path | None = None, *, qdrant: str | None = None, limits: Limits | None = None) -> Stores:
    """The stores in the folder `data`, which is created; None: in a temporary folder, with a warning in the log.

    qdrant: `qdrant://HOST:PORT` or `https://HOST:PORT`; galleries are collections there. Heads are always in the
    folder. Raises InvalidArgument if the folder cannot be written or the URL is invalid; MissingExtra.
    """
    bounds, temporary = limits or Limits(), None
    if data is None:
        temporary = tempfile.TemporaryDirectory(prefix="leap-zoo-data-", ignore_cleanup_errors=True)
        data = Path(temporary.name)
        logger.warning("LEAP_ZOO_SERVE_DATA is not set: heads and galleries are lost when the service stops")
    work = data / "work"
    try:
        for folder in (data / "galleries", data / "heads", work):
            folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=data).close()
    except OSError as error:
        raise InvalidArgument(
            f"LEAP_ZOO_SERVE_DATA {short(data)} cannot be written ({error.strerror}): check permissions and space"
        ) from error
    galleries = QdrantGalleries(qdrant, work, bounds) if qdrant else FolderGalleries(data / "galleries", work, bounds)
    return Stores(galleries, Heads(data / "heads", work, bounds), temporary)
