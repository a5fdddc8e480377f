"""Photos without labels, wherever they are kept: folders of any shape, tar files, Hugging Face datasets on disk.

Nothing is unpacked to disk, and a photo's bytes are read when it is decoded, not before.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from leap_zoo.preprocess import MAX_BYTES
from train.errors import TrainError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
MOST_STATE_BYTES = 16_000_000  # of state.json, which lists the shards


class Packed(Protocol):
    """A photo inside a larger file."""

    @property
    def name(self) -> str:
        """Its file name, as far as it has one."""
        ...

    @property
    def identity(self) -> str:
        """Its place, and what changes when the file that holds it changes."""
        ...

    def read(self) -> bytes:
        """Its bytes, at most MAX_BYTES + 1: what is larger is refused by the decoder. Raises OSError."""
        ...


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
        """The member's bytes."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(min(self.size, MAX_BYTES + 1))

    def __str__(self) -> str:
        return f"{self.archive.name}:{self.member}"


@dataclass(frozen=True)
class ArrowRow:
    """A photo in a memory-mapped Arrow column of {bytes, path}."""

    shard: Path
    column: Any  # pyarrow.StructArray
    row: int

    @property
    def name(self) -> str:
        """The file name that the dataset keeps beside the bytes; the row's number where it keeps none."""
        path = self.column.field("path")[self.row].as_py() if "path" in _fields(self.column) else None
        return Path(path).name if path else str(self.row)

    @property
    def identity(self) -> str:
        """The shard, its time of change, and the row."""
        return f"{self.shard.resolve()}:{self.shard.stat().st_mtime_ns}:{self.row}"

    def read(self) -> bytes:
        """The row's bytes."""
        value = self.column.field("bytes")[self.row]
        if not value.is_valid:
            raise OSError("the dataset holds a path here, not the photo's bytes; save it with the images embedded")
        return bytes(memoryview(value.as_buffer())[: MAX_BYTES + 1])

    def __str__(self) -> str:
        return f"{self.shard.name}:{self.row}"


Source = Path | Packed | npt.NDArray[np.uint8]  # an array is a decoded photo, (H, W) or (H, W, 3)


def find_photos(path: Path) -> list[Path | Packed]:
    """The photos of a folder (searched to any depth), of a `.tar` file, or of what `datasets` saved to disk.

    Raises TrainError where there are none, or the kind is none of these.
    """
    if path.is_dir():
        shards = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
        found: list[Path | Packed] = list(_dataset(path)) if shards else list(_folder(path))
    elif path.is_file() and path.suffix == ".tar":
        found = list(_tar(path))
    elif path.is_file():
        raise TrainError(
            f"{path.name} is neither a folder nor a .tar file; a compressed tar must be decompressed first"
        )
    else:
        raise TrainError(
            f"there is no folder or file {path}; data.more lists folders, .tar files and saved Hugging Face datasets"
        )
    if not found:
        raise TrainError(f"{path} holds no photos ({', '.join(sorted(EXTENSIONS))})")
    return found


def _folder(folder: Path) -> Iterator[Path]:
    yield from sorted(file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS)


def _tar(path: Path) -> Iterator[TarMember]:
    """Regular members that are named like photos; links and devices are left out."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and Path(member.name).suffix.lower() in EXTENSIONS:
                    yield TarMember(path, member.name, member.offset_data, member.size)
            rest = path.stat().st_size - archive.offset  # blocks that mark the end, or none
            if rest < 0 or 0 < rest < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it is cut short")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise TrainError(f"{path.name} cannot be read to its end as a tar file ({error}); pack it again") from error


def _dataset(folder: Path) -> Iterator[ArrowRow]:
    try:
        import pyarrow as arrow
    except ImportError as error:
        raise TrainError(f'{folder} is a Hugging Face dataset: pip install "leap-zoo[train]" reads it') from error
    for name in _shards(folder):
        try:
            table = arrow.ipc.open_stream(arrow.memory_map(str(folder / name))).read_all()
            table.validate(full=True)  # offsets that lie would be followed out of the file's memory
        except (arrow.ArrowException, OSError) as error:
            raise TrainError(f"{folder / name} cannot be read as Arrow ({error}); save the dataset again") from error
        fields = zip(table.column_names, table.schema.types, strict=True)
        columns = [column for column, kind in fields if _holds_images(kind, arrow)]
        if not columns:
            known = ", ".join(table.column_names)
            raise TrainError(f"{folder / name} has no column of images; its columns are {known}")
        for chunk in table[columns[0]].chunks:
            for row in range(len(chunk)):
                yield ArrowRow(folder / name, chunk, row)


def _shards(folder: Path) -> list[str]:
    try:
        if (folder / "state.json").stat().st_size > MOST_STATE_BYTES:
            raise ValueError("larger than any list of shards")
        state = json.loads((folder / "state.json").read_bytes())
        names = [entry["filename"] for entry in state["_data_files"]]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("a shard lies outside the folder")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainError(f"{folder / 'state.json'} lists no shards ({error}); save the dataset again") from error
    return names


def _holds_images(kind: Any, arrow: Any) -> bool:
    """Whether a column is a struct of {bytes: binary, path: string (or none)}, what `datasets` makes of images."""
    if not arrow.types.is_struct(kind):
        return False
    parts = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    binary = {arrow.binary(), arrow.large_binary()}
    return parts.get("bytes") in binary and parts.get("path", arrow.string()) in {arrow.string(), arrow.large_string()}


def _fields(column: Any) -> set[str]:
    return {column.type.field(index).name for index in range(column.type.num_fields)}
