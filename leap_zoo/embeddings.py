"""Embeddings of many photos, and the files that keep them: npz (numpy) or Parquet (an extra)."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.card import ModelCard
from leap_zoo.errors import InvalidArgument, MissingExtra, nearest, short
from leap_zoo.files import atomic_file, check_path, open_regular
from leap_zoo.gallery import SPACES, Value

SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """`vectors` float32 (N, D), L2-normalised, one row per photo of `photos` (N); which model and space they are of.

    bad: the photos and folders that could not be read, and why. skipped: how many files and folders were left out, by
    reason, as in `leap_zoo.folders.Found`. metadata: of each photo (N), where a gallery was exported; else None.
    """

    photos: list[str]
    vectors: npt.NDArray[np.float32]
    model: str
    revision: str
    space: str
    bad: Mapping[str, str] = field(default_factory=dict)
    metadata: list[dict[str, Value]] | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        card: ModelCard,
        space: str,
        photos: list[str],
        rows: Sequence[npt.NDArray[np.float32]],
        bad: Mapping[str, str],
        skipped: Mapping[str, int] | None = None,
    ) -> Embeddings:
        """From rows (D,), perhaps none."""
        width = getattr(card.embedding_dims, space)
        vectors = np.stack(rows) if rows else np.empty((0, width), np.float32)
        return cls(photos, vectors, card.id, card.revision, space, bad, skipped=dict(skipped or {}))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write FILE.npz or FILE.parquet, atomically. Raises InvalidArgument, MissingExtra.

        npz: `embeddings` float32 (N, D), `photos` (N,), `model`, `revision`, `space`.
        Parquet: columns `photo` (string) and `embedding` (fixed-size list of D float32); model, revision and space are
        in the schema's metadata. Neither keeps `bad` and `metadata`.
        """
        target = check_suffix(path)
        try:
            with atomic_file(target) as file:
                if target.suffix == ".parquet":
                    self._write_parquet(file)
                else:
                    self._write_npz(file)
        except OSError as error:
            raise InvalidArgument(f"{short(target)} cannot be written ({error.strerror}): choose another") from error
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embeddings:
        """Read an npz file: of `save`, or a gallery that a service exported, whose ids become `photos`.

        Nothing is unpickled or unpacked, so no more is read than the file holds. Raises InvalidArgument when the file
        cannot be read, was compressed, or breaks what this class promises.
        """
        try:
            with open_regular(path) as file, zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("it is compressed, which leap-zoo does not do")
                with np.load(file, allow_pickle=False) as arrays:
                    return cls._checked(arrays)
        except OSError as error:
            raise InvalidArgument(f"cannot read {short(path)} ({error.strerror or error}): check the path") from error
        except Exception as error:  # numpy lets through what its parsers raise
            raise InvalidArgument(
                f"{short(path)} is not a file of embeddings ({short(error)}): give an npz file that `leap-zoo embed` "
                "wrote, or the export of a gallery"
            ) from error

    @classmethod
    def _checked(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Embeddings:
        """From what a file holds. Raises ValueError, KeyError."""
        model, revision, space = (arrays[name] for name in ("model", "revision", "space"))
        photos, vectors = arrays["ids" if "ids" in arrays else "photos"], arrays["embeddings"]
        if vectors.dtype != np.float32 or vectors.ndim != 2 or not vectors.shape[1]:
            raise ValueError(f"embeddings are {vectors.dtype} {vectors.shape}, not float32 (N, D)")
        if photos.dtype.kind != "U" or photos.shape != vectors.shape[:1]:
            raise ValueError(f"photos are {photos.dtype} {photos.shape}, not text ({len(vectors)},)")
        if any(one.dtype.kind != "U" or one.ndim for one in (model, revision, space)) or str(space) not in SPACES:
            raise ValueError("model, revision and space are not texts, or the space is unknown")
        if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3).all():
            raise ValueError("an embedding does not have length 1")
        metadata = None
        if "metadata" in arrays:
            metadata = msgspec.json.Decoder(dict[str, Value]).decode_lines(arrays["metadata"].tobytes())
            if len(metadata) != len(vectors):
                raise ValueError(f"there are metadata of {len(metadata)} photos, not of {len(vectors)}")
        return cls(photos.tolist(), vectors, str(model), str(revision), str(space), metadata=metadata)

    def _write_npz(self, file: BinaryIO) -> None:
        np.savez(
            file,
            allow_pickle=False,
            embeddings=self.vectors,
            photos=np.array(self.photos, dtype=np.str_),
            model=np.array(self.model),
            revision=np.array(self.revision),
            space=np.array(self.space),
        )

    def _write_parquet(self, file: BinaryIO) -> None:
        arrow, parquet = _import_pyarrow()
        width = self.vectors.shape[1]
        vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(self.vectors.reshape(-1)), width)
        about = {"model": self.model, "revision": self.revision, "space": self.space}
        schema = arrow.schema(
            [("photo", arrow.string()), ("embedding", arrow.list_(arrow.float32(), width))], metadata=about
        )
        parquet.write_table(arrow.table([arrow.array(self.photos, arrow.string()), vectors], schema=schema), file)


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """The path, when something can be written there: before an hour's work, not after. Raises as `save` does."""
    target = check_path(path)
    if target.suffix not in SUFFIXES:
        raise InvalidArgument(f"{short(target)}: embeddings are kept in a file of another kind{nearest('', SUFFIXES)}")
    if not target.absolute().parent.is_dir():
        raise InvalidArgument(f"{short(target)}: its folder does not exist: create it first")
    if target.suffix == ".parquet":
        _import_pyarrow()
    return target


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            f'Parquet needs pyarrow, which cannot be imported ({error}): pip install "leap-zoo[parquet]"'
        ) from error
    return pyarrow, pyarrow.parquet
