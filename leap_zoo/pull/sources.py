"""Where a zoo can be pulled from: a folder, a server, or a repository of the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from leap_zoo.card import File
from leap_zoo.errors import ArtifactCorrupt, InvalidArgument, short
from leap_zoo.progress import Progress
from leap_zoo.pull.unfinished import Partial
from leap_zoo.settings import zoo_location
from leap_zoo.zoo import read_inside


class Source(Protocol):
    """Paths are relative to the zoo: `index.json`, `leap-nano/card.json`. What is read is not checked yet."""

    name: str  # for messages; no password in it
    remote: bool  # whether it needs the network

    def read(self, path: str, limit: int, *, optional: bool = False) -> bytes | None:
        """A document, None where there is none. Raises a LeapZooError, also when it is larger than `limit`."""
        ...

    def fetch(self, path: str, published: File, partial: Partial, progress: Progress) -> None:
        """Append what `partial` lacks of a file. Raises a LeapZooError."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def open_source(location: str | os.PathLike[str]) -> Source:
    """The source at a folder, a file://, http(s):// or hf://org/repo URL. Raises InvalidArgument, MissingExtra."""
    place = zoo_location(location, "--from")
    if isinstance(place, Path):
        return FolderSource(place)
    if place.startswith("hf://"):
        from leap_zoo.pull.hub import HubSource

        return HubSource(place)
    from leap_zoo.pull.download import HttpSource

    return HttpSource(place)


class FolderSource:
    """A zoo in a folder, for example on a stick. Links that lead out of it are refused."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        if not folder.is_dir():
            raise InvalidArgument(f"{short(folder)} is no folder: give the folder that holds index.json, or a URL")

    def read(self, path: str, limit: int, *, optional: bool = False) -> bytes | None:
        """See `Source`."""
        return read_bounded(self._folder, self._folder / path, limit)

    def fetch(self, path: str, published: File, partial: Partial, progress: Progress) -> None:
        """See `Source`. The whole file at once: it fits in memory, or it could not be loaded."""
        copy_whole(self.read(path, published.bytes), f"{self.name}/{path}", partial, progress)

    def close(self) -> None:
        """Nothing to close."""


def read_bounded(folder: Path, path: Path, limit: int) -> bytes | None:
    """A file of at most `limit` bytes inside `folder`, None where there is none. Raises ArtifactCorrupt."""
    try:
        data = read_inside(folder, path, limit)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ArtifactCorrupt(f"{short(path)} cannot be read ({error.strerror}): mend the zoo") from error
    if len(data) > limit:
        raise ArtifactCorrupt(f"{short(path)} is larger than {limit} bytes: refused")
    return data


def copy_whole(data: bytes | None, what: str, partial: Partial, progress: Progress) -> None:
    """Fill `partial` with a file that is on this device. Raises ArtifactCorrupt."""
    if data is None:
        raise ArtifactCorrupt(f"{short(what)} is listed by its card, but it is not there: refused")
    progress.step(-partial.size)
    partial.begin(None)
    partial.append(data)
    progress.step(len(data))
