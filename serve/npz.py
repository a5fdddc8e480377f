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
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.lib import format as npy

from leap_zoo.gallery import Gallery

BLOCK = 64 * 1024  # bytes


def write_npz(gallery: Gallery, file: IO[bytes], folder: Path) -> None:
    """Write a gallery into an open file, block by block, unless it is closed meanwhile.

    folder: for temporary files. Raises OSError, and ValueError for a closed file.
    """
    encoder, kind, ids = msgspec.json.Encoder(), gallery.kind, list[str]()
    # An array's header has its length, which is known only at the end.
    with tempfile.TemporaryFile(dir=folder) as vectors, tempfile.TemporaryFile(dir=folder) as lines:
        for names, rows, metadata in gallery.export():
            if file.closed:  # nobody waits any more, and a large gallery would take minutes
                raise ValueError("export into a closed file")
            ids += names
            vectors.write(rows.astype("<f4", copy=False).tobytes())
            lines.write(encoder.encode_lines(metadata))
        small = {name: np.array(getattr(kind, name)) for name in ("model", "revision", "space")}
        large = {"embeddings": (vectors, (len(ids), kind.dim), "<f4"), "metadata": (lines, (lines.tell(),), "|u1")}
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in ({"ids": np.array(ids, np.str_)} | small).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array(entry, array, allow_pickle=False)
            for name, (data, shape, dtype) in large.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    npy.write_array_header_1_0(entry, {"descr": dtype, "fortran_order": False, "shape": shape})
                    data.seek(0)
                    shutil.copyfileobj(data, entry, BLOCK)
