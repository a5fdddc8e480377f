"""A gallery as an npz file, written while it is sent.

embeddings   float32 (N, D), rows of length 1
ids          text (N,)
metadata     uint8: a line of JSON per item, in the same order
model, revision, space
"""

from __future__ import annotations

import io
import tempfile
import threading
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.lib import format as npy

from leap_zoo.gallery import Gallery, Kind
from serve.problems import Refused

BLOCK = 256 * 1024  # bytes


class Export:
    """The blocks of one npz file: iterate once. What is sent is the gallery as it was when it was copied."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        """folder: for two files without a name, which are gone when this is, however the process ends."""
        self._kind, self._ids = kind, list[str]()
        self._vectors, self._lines = (tempfile.TemporaryFile(dir=folder) for _ in range(2))  # noqa: SIM115

    def copy(self, gallery: Gallery) -> None:
        """Take all of it. Raises OSError when the disk is full."""
        encoder = msgspec.json.Encoder()
        for ids, vectors, metadata in gallery.export():
            self._ids += ids
            self._vectors.write(vectors.astype("<f4", copy=False).tobytes())
            self._lines.write(encoder.encode_lines(metadata))

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


class Exports:
    """At most so many at a time: each has its files for as long as its client takes to read them."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._guard = threading.Lock()
        self._open: weakref.WeakSet[Export] = weakref.WeakSet()

    def begin(self, gallery: Gallery) -> Export:
        """Raises Refused (503) when there are too many."""
        with self._guard:
            if len(self._open) >= self._most:
                detail = "Too many galleries are being exported already. Try again shortly."
                raise Refused(503, "busy", detail, {"retry-after": "10"})
            export = Export(gallery.kind, self._folder)
            self._open.add(export)
        export.copy(gallery)
        return export


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
