"""What clients leave here for later: galleries of their photos' embeddings, and heads for their own classes.

Photos are never kept. Everything lies in one data folder, whose format belongs to `leap_zoo`; galleries may lie on a
Qdrant server instead. All methods block for as long as a disk or a server takes: call them through `Stores.threads`.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from leap_zoo.errors import InvalidArgument, short
from serve.stores.folder_shelf import FolderShelf
from serve.stores.galleries import GalleryStore
from serve.stores.heads import HeadStore
from serve.stores.limits import Limits
from serve.stores.qdrant_shelf import QdrantShelf
from serve.stores.shelves import Shelf
from serve.stores.threads import Threads

logger = logging.getLogger("leap_zoo.serve")


@dataclass(frozen=True)
class Stores:
    """The galleries and the heads of one service."""

    galleries: GalleryStore
    heads: HeadStore
    limits: Limits
    threads: Threads = field(default_factory=Threads, repr=False)
    temporary: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def close(self) -> None:
        """Let go of connections, and of the folder where it was a temporary one."""
        self.threads.close()
        self.galleries.close()
        if self.temporary is not None:
            self.temporary.cleanup()


def open_stores(data: Path | None = None, *, qdrant: str | None = None, limits: Limits | None = None) -> Stores:
    """The stores in the folder `data`, which is made; None: in a temporary one, and the log says that nothing stays.

    qdrant: `qdrant://HOST:PORT` or `https://HOST:PORT`; galleries are collections there. Heads are always in the
    folder. Raises InvalidArgument when the folder cannot be written, or the URL is none; MissingExtra.
    """
    bounds, temporary = limits or Limits(), None
    if data is None:
        temporary = tempfile.TemporaryDirectory(prefix="leap-zoo-data-", ignore_cleanup_errors=True)
        data = Path(temporary.name)
        logger.warning("LEAP_ZOO_SERVE_DATA is not set: heads and galleries are lost when the service ends")
    try:
        for folder in (data, data / "galleries", data / "heads", data / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=data).close()
    except OSError as error:
        raise InvalidArgument(
            f"LEAP_ZOO_SERVE_DATA {short(data)} cannot be written ({error.strerror}): make rights or room there"
        ) from error
    shelf: Shelf = FolderShelf(data / "galleries") if qdrant is None else QdrantShelf(qdrant)
    return Stores(
        GalleryStore(shelf, data / "work", bounds), HeadStore(data / "heads", bounds), bounds, temporary=temporary
    )
