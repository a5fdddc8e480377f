"""A gallery as an npz file, written while it is sent.

embeddings   float32 (N, D), rows of length 1
ids          text (N,)
metadata     uint8: a line of JSON per item, in the same order
model, revision, space
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.lib import format as npy

from leap_zoo.gallery import Gallery, Kind

BLOCK = 256 * 1024  # bytes


class Export:
    """The blocks of one npz file: iterate once. What is sent is the gallery as it was when it was copied.

    Whoever has it must close it: it holds two files, and a place among the exports.
    """

    def __init__(self, kind: Kind, folder: Path, closed: Callable[[], object] = lambda: None) -> None:
        """folder: for two files without a name, which the system removes however the process ends.

        closed: called once, when it is closed.
        """
        self._kind, self._ids, self._closed = kind, list[str](), closed
        self._vectors, self._lines = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115

    def copy(self, gallery: Gallery) -> None:
        """Take all of it. Raises OSError when the disk is full."""
        encoder = msgspec.json.Encoder()
        for ids, vectors, metadata in gallery.export():
            self._ids += ids
            self._vectors.write(vectors.astype("<f4", copy=False).tobytes())
            self._lines.write(encoder.encode_lines(metadata))

    def close(self) -> None:
        """Let go of the files and of the place. May be called again."""
        self._vectors.close()
        self._lines.close()
        closed, self._closed = self._closed, lambda: None
        closed()

    def __iter__(self) -> Iterator[bytes]:
        sink = _Sink()
        small = {"model": self._kind.model, "revision": self._kind.revision, "space": self._kind.space}
        with zipfile.ZipFile(sink, "w") as archive:
            for name, value in [("ids", np.array(self._ids, np.str_)), *((n, np.array(v)) for n, v in small.items())]:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array(entry, value, allow_pickle=False)
                yield sink.take()
            for name, file, shape, dtype in (
                ("embeddings", self._vectors, (len(self._ids), self._kind.dim), "<f4"),
                ("metadata", self._lines, (self._lines.tell(),), "|u1"),
            ):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array_header_1_0(entry, {"descr": dtype, "fortran_order": False, "shape": shape})
                    for block in _blocks(file):
                        entry.write(block)
                        yield sink.take()
        yield sink.take()


class _Sink(io.RawIOBase):
    """Where the archive is written to, and taken from."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(BLOCK):
        yield block
