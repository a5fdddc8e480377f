"""A gallery as one npz file.

embeddings   float32 (N, D), rows of length 1
ids          text (N,)
metadata     uint8: a line of JSON per item, in the same order
model, revision, space
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.lib import format as npy

from leap_zoo.gallery import Gallery

_ABOUT = ("model", "revision", "space")
BLOCK = 64 * 1024  # bytes that are written to a client at once


class Export:
    """The blocks of an npz file of a gallery, as of the time of creation: iterate once.

    The caller must close it: it holds a temporary file and one of the places for exports.
    """

    def __init__(self, gallery: Gallery, folder: Path, closed: Callable[[], object] = lambda: None) -> None:
        """folder: for temporary files without a name, which the system removes however the process ends.

        closed: called once, when this is closed. Raises OSError if the disk is full.
        """
        self._closed = closed
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        try:
            _write(gallery, self._file, folder)
            self._file.seek(0)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Free the file and the place. May be called again."""
        self._file.close()
        closed, self._closed = self._closed, lambda: None
        closed()

    def __iter__(self) -> Iterator[bytes]:
        while block := self._file.read(BLOCK):
            yield block


def _write(gallery: Gallery, file: IO[bytes], folder: Path) -> None:
    encoder, kind, ids = msgspec.json.Encoder(), gallery.kind, list[str]()
    # An array's header has its length, which is known only at the end.
    with tempfile.TemporaryFile(dir=folder) as vectors, tempfile.TemporaryFile(dir=folder) as lines:
        for names, rows, metadata in gallery.export():
            ids += names
            vectors.write(rows.astype("<f4", copy=False).tobytes())
            lines.write(encoder.encode_lines(metadata))
        small = {"ids": np.array(ids, np.str_)} | {name: np.array(getattr(kind, name)) for name in _ABOUT}
        large = {"embeddings": (vectors, (len(ids), kind.dim), "<f4"), "metadata": (lines, (lines.tell(),), "|u1")}
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in small.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array(entry, array, allow_pickle=False)
            for name, (data, shape, dtype) in large.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array_header_1_0(entry, {"descr": dtype, "fortran_order": False, "shape": shape})
                    data.seek(0)
                    shutil.copyfileobj(data, entry, BLOCK)
