"""Photos without labels: folders of any shape, and uncompressed tar files, which are read without unpacking."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from leap_zoo.folders import PHOTO_SUFFIXES, Found
from leap_zoo.folders import photos_below as search
from leap_zoo.preprocess import LIMITS
from train.errors import TrainError


@dataclass(frozen=True)
class TarMember:
    """A photo in an uncompressed tar file: `size` bytes from `offset`."""

    archive: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """The member's file name."""
        return Path(self.member).name

    @property
    def identity(self) -> str:
        """The archive, its time of change, and the member's place in it."""
        return f"{self.archive.resolve()}:{self.archive.stat().st_mtime_ns}:{self.offset}:{self.size}"

    def read(self) -> bytes:
        """The member's bytes, at most LIMITS.bytes + 1: what is larger is refused by the decoder. Raises OSError."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(min(self.size, LIMITS.bytes + 1))

    def __str__(self) -> str:
        return f"{self.archive.name}:{self.member}"


class Read(Protocol):
    """A photo that is the bytes of no file of its own. name: of the photo. identity: changes when the bytes change."""

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def identity(self) -> str:
        """See the class."""

    def read(self) -> bytes:
        """Its bytes, as of a file. Raises OSError, ImageError."""


Source = Path | Read | npt.NDArray[np.uint8]  # an array is a decoded photo, (H, W) or (H, W, 3)


def find_photos(path: Path) -> list[Path | TarMember]:
    """The photos of a folder (searched to any depth) or of a `.tar` file.

    Raises TrainError where there are none, or the path is neither.
    """
    found: list[Path | TarMember]
    if path.is_dir():
        found = list(photos_below(path))
    elif path.is_file() and path.suffix == ".tar":
        found = list(_tar(path))
    elif path.is_file():
        raise TrainError(
            f"{path.name} is neither a folder nor a .tar file; a compressed tar must be decompressed first"
        )
    else:
        raise TrainError(f"there is no folder or file {path}; data.more lists folders and .tar files")
    if not found:
        raise TrainError(f"{path} holds no photos ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return found


def photos_below(folder: Path) -> list[Path]:
    """The photos of a folder, to any depth, sorted. Raises TrainError when a folder cannot be read."""
    found = Found()
    photos = sorted(map(Path, search(str(folder), found)))
    if found.skipped["unreadable_folders"]:
        raise TrainError(next(iter(found.bad.values())))
    return photos


def _tar(path: Path) -> Iterator[TarMember]:
    """Regular members that are named like photos; links and devices are left out."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and Path(member.name).suffix.lower() in PHOTO_SUFFIXES:
                    yield TarMember(path, member.name, member.offset_data, member.size)
            rest = path.stat().st_size - archive.offset  # blocks that mark the end, or none
            if rest < 0 or 0 < rest < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it is cut short")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise TrainError(f"{path.name} cannot be read to its end as a tar file ({error}); pack it again") from error
