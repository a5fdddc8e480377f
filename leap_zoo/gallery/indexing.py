"""Photos into a gallery: only what is new or changed is embedded, and what was written stays when it is interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from leap_zoo.errors import ImageError, InvalidGallery, UnreadableFile, short
from leap_zoo.folders import answers
from leap_zoo.gallery import Gallery, Kind, Metadata, Value
from leap_zoo.model import MAX_BATCH, Model, output_of

BATCHES = 8  # of photos, between two writes to the gallery

Done = Callable[[str, str | None], None]


@dataclass
class Indexed:
    """What became of the photos: how many were embedded, unchanged, taken out; and why some could not be embedded."""

    added: int = 0
    unchanged: int = 0
    removed: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)


def index_photos(
    gallery: Gallery,
    model: Model,
    photos: Sequence[str],
    *,
    prune: Sequence[str] = (),
    done: Done = lambda name, error: None,
) -> Indexed:
    """Embed photos into `gallery`, in its space, under their absolute paths.

    photos: paths of files. One that is there already, with the size and the time of its last change, is left alone.
    prune: folders; items below them that are not among `photos` are taken out.
    done: called with each photo's id, and with what was wrong with it.
    metadata: path, bytes, mtime_ns, label (the name of its folder), precision (of the file that embedded it).
    Raises InvalidGallery when the gallery is not of this model, or only to be queried.
    """
    kind = Kind.of(model, gallery.kind.space)
    if gallery.read_only or gallery.kind != kind:
        raise InvalidGallery(
            f"the gallery holds embeddings of {gallery.kind}, this model gives those of {kind}: give another gallery"
        )
    known = {item.id: (item.metadata.get("bytes"), item.metadata.get("mtime_ns")) for item in gallery.items()}
    report = Indexed()
    if prune:
        roots = tuple(os.path.join(_name(folder), "") for folder in prune)
        gone = known.keys() - {_name(photo) for photo in photos}
        report.removed = gallery.delete(sorted(name for name in gone if name.startswith(roots)))
    fresh: list[_Photo] = []
    for photo in photos:
        name = _name(photo)
        try:
            fields = _describe(photo, name, model)
        except ImageError as error:
            report.bad.append((name, str(error)))
            done(name, str(error))
            continue
        if known.get(name) == (fields["bytes"], fields["mtime_ns"]):
            report.unchanged += 1
            done(name, None)
        else:
            fresh.append(_Photo(photo, name, fields))
    for start in range(0, len(fresh), BATCHES * MAX_BATCH):
        _index(gallery, model, fresh[start : start + BATCHES * MAX_BATCH], report, done)
    return report


class _Photo(NamedTuple):
    path: str
    name: str
    fields: Metadata


def _index(gallery: Gallery, model: Model, part: list[_Photo], report: Indexed, done: Done) -> None:
    found: list[tuple[_Photo, npt.NDArray[np.float32]]] = []
    try:
        rows = answers(model, [photo.path for photo in part], output_of(gallery.kind.space))
        for photo, answer in zip(part, rows, strict=True):
            if isinstance(answer, ImageError):
                report.bad.append((photo.name, str(answer)))
                done(photo.name, str(answer))
            else:
                found.append((photo, answer))
                done(photo.name, None)
    finally:  # an interrupt loses the photos in hand, not those that are embedded
        if found:
            names, fields = [photo.name for photo, _ in found], [photo.fields for photo, _ in found]
            gallery.add(names, np.stack([vector for _, vector in found]), fields)
            report.added += len(found)


def _describe(photo: str, name: str, model: Model) -> dict[str, Value]:
    """Metadata of a photo. Its size and time are taken before it is read: a later change is noticed next time."""
    try:
        status = os.stat(photo)
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"cannot read {short(photo)} ({error}): check the path") from error
    return {
        "path": name,
        "bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "label": os.path.basename(os.path.dirname(name)),
        "precision": model.artifact.precision,
    }


def _name(photo: str) -> str:
    """The id of a photo: its absolute path as valid UTF-8, which file names need not be."""
    return os.fsencode(os.path.abspath(photo)).decode("utf-8", "backslashreplace")
