"""Index photos into a gallery: only new or changed photos are embedded, and an interruption keeps what was written."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from leap_zoo.errors import ImageError, InvalidArgument, InvalidGallery, UnreadableFile, short
from leap_zoo.folders import Found, name_of, readable
from leap_zoo.gallery import Gallery, Kind, Value, checked_ids, checked_metadata
from leap_zoo.model import Model, Row, output_of

WRITTEN = 256  # photos at a time


@dataclass
class Indexed:
    """How many photos were embedded, unchanged, and removed."""

    added: int = 0
    unchanged: int = 0
    removed: int = 0


def index_photos(
    gallery: Gallery, model: Model, found: Found, *, prune: bool = False, progress: bool = False
) -> Indexed:
    """Embed the photos of `find_photos` into `gallery`, in its space. Unreadable photos are added to `found.bad`.

    A photo's id is its absolute path, in one spelling. A photo that is already indexed with the same size and
    modification time is skipped.
    prune: remove the items below `found.folders` whose files no longer exist. If a folder could not be searched
    (unreadable, left out, a link, or empty like an unmounted disk), its items stay.
    progress: draw a bar on stderr if it is a terminal.
    metadata: path, bytes, mtime_ns, label (the name of its folder), precision (of the file that embedded it).
    Raises InvalidGallery if the gallery is for another model, or may only be queried.
    """
    kind = Kind.of(model, gallery.kind.space)
    if gallery.read_only or gallery.kind != kind:
        raise InvalidGallery(
            f"the gallery holds embeddings of {gallery.kind}, this model gives those of {kind}: give another gallery"
        )
    known = {item.id: (item.metadata.get("bytes"), item.metadata.get("mtime_ns")) for item in gallery.items()}
    path_of: dict[str, str] = {}
    report = Indexed()
    fresh: list[tuple[str, dict[str, Value]]] = []  # path and metadata
    for path in found.photos:
        name = _id(path)
        twin = path_of.setdefault(name, path)
        if twin is not path:
            if os.path.abspath(path) != os.path.abspath(twin):
                found.refuse(path, f"{path!a} and {twin!a} are two spellings of one name: rename one of them")
            continue
        try:
            fields = _describe(path, name, model)
        except ImageError as error:
            found.refuse(path, str(error))
            continue
        if known.get(name) == (fields["bytes"], fields["mtime_ns"]):
            report.unchanged += 1
        else:
            fresh.append((path, fields))
    if prune:
        report.removed = gallery.delete(sorted(_gone(known.keys() - path_of.keys(), found)))
    waiting: list[tuple[int, Row]] = []

    def write() -> None:
        part, waiting[:] = waiting[:], []
        fields = [fresh[number][1] for number, _ in part]
        gallery.add([str(one["path"]) for one in fields], np.stack([row for _, row in part]), fields)
        report.added += len(part)

    paths = [path for path, _ in fresh]
    try:
        for embedded in readable(model, paths, paths, output_of(gallery.kind.space), found, progress=progress):
            waiting.append(embedded)
            if len(waiting) == WRITTEN:
                write()
    finally:  # an interrupt loses the current batch, not the photos that are already embedded
        if waiting:
            write()
    return report


def _describe(path: str, name: str, model: Model) -> dict[str, Value]:
    """Metadata of a photo. Size and time are taken before it is read, so that a later change is noticed next time."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UnreadableFile(
            f"cannot read {short(path)} ({getattr(error, 'strerror', None) or error}): check the path"
        ) from error
    fields: dict[str, Value] = {
        "path": name,
        "bytes": status.st_size,
        "mtime_ns": min(max(status.st_mtime_ns, -(2**63)), 2**63 - 1),  # a file's time may be in any year
        "label": os.path.basename(os.path.dirname(name)),
        "precision": model.artifact.precision,
    }
    try:
        checked_ids([name])
        checked_metadata([fields], 1)
    except InvalidArgument as error:
        raise UnreadableFile(f"the name of {short(path)} cannot be stored ({error}): rename it") from error
    return fields


def _gone(absent: set[str], found: Found) -> list[str]:
    """The ids below the folders that have no photo and whose files no longer exist."""
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
