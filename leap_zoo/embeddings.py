"""Embeddings of a folder of photos, and the npz files that store them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.errors import InvalidArgument, short
from leap_zoo.files import check_place, failing_as, new_file, open_regular, saved_file
from leap_zoo.folders import Found, find_photos, name_of, readable
from leap_zoo.gallery import SPACES, Value
from leap_zoo.model import Model, Space, output_of
from leap_zoo.preprocess import ImageSource

SUFFIX = ".npz"


@dataclass(frozen=True, eq=False)
class Embeddings:
    """`vectors` float32 (N, D), L2-normalized, one row per photo of `photos` (N), with their model and space.

    bad: photos and folders that could not be read, and why. skipped: the number of files and folders left out, by
    reason, as in `leap_zoo.folders.Found`. metadata: one per photo (N) if they come from a gallery; else None.
    """

    photos: list[str]
    vectors: npt.NDArray[np.float32]
    model: str
    revision: str
    space: str
    bad: Mapping[str, str] = field(default_factory=dict)
    metadata: list[dict[str, Value]] | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write FILE.npz atomically, without `bad`, `metadata` and `skipped`. Raises InvalidArgument.

        It contains `embeddings` float32 (N, D), `photos` (N,), `model`, `revision`, `space`.
        """
        target = new_file(path, SUFFIX)
        texts = {name: np.array(getattr(self, name), np.str_) for name in ("photos", "model", "revision", "space")}
        try:
            self._checked(texts | {"embeddings": self.vectors})
        except ValueError as error:
            raise InvalidArgument(f"these embeddings could not be read back: {error}") from error
        with saved_file(target) as file:
            np.savez(file, allow_pickle=False, embeddings=self.vectors, **texts)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embeddings:
        """Read an npz file: from `save`, or a gallery exported by a service, whose ids become `photos`.

        Nothing is unpickled or decompressed, so no more is read than the file's size. Raises InvalidArgument if the
        file cannot be read, is compressed, or does not satisfy what this class promises.
        """
        import zipfile

        try:
            with (
                failing_as(InvalidArgument, f"cannot read {short(path)}", "check the path"),
                open_regular(path) as file,
                zipfile.ZipFile(file) as archive,
            ):
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("it is compressed, and leap-zoo does not decompress files")
                with np.load(file, allow_pickle=False) as arrays:
                    return cls._checked(arrays)
        except InvalidArgument:
            raise
        except Exception as error:  # numpy passes on whatever its parsers raise
            raise InvalidArgument(
                f"{short(path)} is not an embeddings file ({short(error)}): give an npz file that `leap-zoo embed` "
                "wrote, or the export of a gallery"
            ) from error

    @classmethod
    def _checked(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Embeddings:
        """Embeddings from the arrays of a file. Raises ValueError, KeyError."""
        model, revision, space = (arrays[name] for name in ("model", "revision", "space"))
        photos, vectors = arrays["ids" if "ids" in arrays else "photos"], arrays["embeddings"]
        if vectors.dtype != np.float32 or vectors.ndim != 2 or not vectors.shape[1]:
            raise ValueError(f"embeddings are {vectors.dtype} {vectors.shape}, not float32 (N, D)")
        if photos.dtype.kind != "U" or photos.shape != vectors.shape[:1]:
            raise ValueError(f"photos are {photos.dtype} {photos.shape}, not text ({len(vectors)},)")
        if any(one.dtype.kind != "U" or one.ndim for one in (model, revision, space)) or str(space) not in SPACES:
            raise ValueError("model, revision or space is not a string, or the space is unknown")
        if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3).all():
            raise ValueError("an embedding does not have length 1")
        metadata = None
        if "metadata" in arrays:
            metadata = msgspec.json.Decoder(dict[str, Value]).decode_lines(arrays["metadata"].tobytes())
            if len(metadata) != len(vectors):
                raise ValueError(f"there is metadata for {len(metadata)} photos, not for {len(vectors)}")
        return cls(photos.tolist(), vectors, str(model), str(revision), str(space), metadata=metadata)


def embed_folder(
    model: Model, folder: str | os.PathLike[str], *, space: Space = "student", progress: bool = False
) -> Embeddings:
    """Embed every photo below a folder. progress: draw a bar on stderr if it is a terminal.

    Photos and folders that cannot be read are left out and listed in `bad`; `skipped` counts what was left out, by
    reason. Raises InvalidArgument if the folder contains no photos.
    """
    output_of(space)
    if not os.path.isdir(check_place(folder, "the folder")):
        raise InvalidArgument(f"{short(folder)} is not a folder: give a folder of photos")
    found = find_photos(folder)
    return embed_found(model, found, space, found.photos, progress=progress)


def embed_found(
    model: Model, found: Found, space: Space, sources: Iterable[ImageSource], *, progress: bool = False
) -> Embeddings:
    """Embed the photos of `found`, read from `sources`."""
    card, photos = model.card, found.photos
    vectors = np.empty((len(photos), getattr(card.embedding_dims, space)), np.float32)
    names: list[str] = []
    for number, row in readable(model, photos, sources, output_of(space), found, progress=progress):
        vectors[len(names)] = row
        names.append(name_of(photos[number]))
    return Embeddings(names, vectors[: len(names)], card.id, card.revision, space, found.bad, None, found.skipped)
