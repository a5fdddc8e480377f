"""Photos into a gallery: only what is new or changed is embedded, and what was written stays when it is interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from leap_zoo.errors import ImageError, InvalidArgument, InvalidGallery, UnreadableFile, short
from leap_zoo.folders import Found, answers, name_of
from leap_zoo.gallery import Gallery, Kind, Metadata, Value, checked_ids, checked_metadata
from leap_zoo.model import MAX_BATCH, Model, output_of

BATCHES = 8  # of photos, between two writes to the gallery

Done = Callable[[str, str | None], None]


@dataclass
class Indexed:
    """How many photos were embedded, unchanged, and taken out."""

    added: int = 0
    unchanged: int = 0
    removed: int = 0


def index_photos(
    gallery: Gallery,
    model: Model,
    found: Found,
    *,
    prune: bool = False,
    done: Done = lambda name, error: None,
) -> Indexed:
    """Embed photos (of `find_photos`) into `gallery`, in its space. What cannot be read is added to `found.bad`.

    A photo's id is its absolute path, in one spelling. One that is there already, with the size and the time of its
    last change, is left alone.
    prune: take out the items below `found.folders` whose files are gone. Where a folder could not be looked at
    (unreadable, left out, a link, or empty as a disk that is not mounted), its items stay.
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
    path_of: dict[str, str] = {}
    report = Indexed()
    fresh: list[_Photo] = []
    for path in found.photos:
        name = _id(path)
        try:
            if name in path_of:
                _check_same(path, path_of[name])
                done(name, None)
                continue
            path_of[name] = path
            fields = _describe(path, name, model)
        except ImageError as error:
            found.refuse(path, str(error))
            done(name, str(error))
            continue
        if known.get(name) == (fields["bytes"], fields["mtime_ns"]):
            report.unchanged += 1
            done(name, None)
        else:
            fresh.append(_Photo(path, name, fields))
    if prune:
        report.removed = gallery.delete(sorted(_gone(known.keys() - path_of.keys(), found)))
    for start in range(0, len(fresh), BATCHES * MAX_BATCH):
        _index(gallery, model, fresh[start : start + BATCHES * MAX_BATCH], found, report, done)
    return report


class _Photo(NamedTuple):
    path: str
    name: str
    fields: Metadata


def _index(gallery: Gallery, model: Model, part: list[_Photo], found: Found, report: Indexed, done: Done) -> None:
    good: list[tuple[_Photo, npt.NDArray[np.float32]]] = []
    try:
        rows = answers(model, [photo.path for photo in part], output_of(gallery.kind.space))
        for photo, answer in zip(part, rows, strict=True):
            if isinstance(answer, ImageError):
                found.refuse(photo.path, str(answer))
                done(photo.name, str(answer))
            else:
                good.append((photo, answer))
                done(photo.name, None)
    finally:  # an interrupt loses the photos in hand, not those that are embedded
        if good:
            names, fields = [photo.name for photo, _ in good], [photo.fields for photo, _ in good]
            gallery.add(names, np.stack([vector for _, vector in good]), fields)
            report.added += len(good)


def _describe(path: str, name: str, model: Model) -> dict[str, Value]:
    """Metadata of a photo. Its size and time are taken before it is read: a later change is noticed next time."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UnreadableFile(
            f"cannot read {short(path)} ({getattr(error, 'strerror', None) or error}): check the path"
        ) from error
    fields: dict[str, Value] = {
        "path": name,
        "bytes": status.st_size,
        "mtime_ns": min(max(status.st_mtime_ns, -(2**63)), 2**63 - 1),  # a file may be of any year
        "label": os.path.basename(os.path.dirname(name)),
        "precision": model.artifact.precision,
    }
    try:
        checked_ids([name])
        checked_metadata([fields], 1)
    except InvalidArgument as error:
        raise UnreadableFile(f"the name of {short(path)} cannot be stored ({error}): rename it") from error
    return fields


def _check_same(path: str, twin: str) -> None:
    if os.path.abspath(path) != os.path.abspath(twin):
        raise UnreadableFile(f"{path!a} and {twin!a} are two spellings of one name: rename one of them")


def _gone(absent: set[str], found: Found) -> list[str]:
    """Those of the ids without a photo that are below the folders, and whose files do not exist any more."""
    below = tuple(os.path.join(_id(folder), "") for folder in found.folders)
    unseen = tuple(os.path.join(_id(place), "") for place in found.unseen)
    return [name for name in absent if name.startswith(below) and not name.startswith(unseen) and _is_gone(name)]


def _is_gone(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _id(path: str) -> str:
    return name_of(os.path.abspath(path))
