"""Folders of photos: which files are photos, what is skipped and why, and running them through a model in batches."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from leap_zoo.errors import ImageError, InvalidArgument, short
from leap_zoo.model import Model, Row
from leap_zoo.preprocess import ImageSource
from leap_zoo.progress import Progress

# HEIC needs the extra `heic`; without it such photos are reported as unreadable, not ignored.
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *(".heic", ".heif", ".hif"),
)
# Left beside photos by NAS devices, macOS and Windows; names that begin with a dot are hidden anyway.
JUNK_FOLDERS = frozenset(
    ["@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "lost+found"]
)

Place = str | os.PathLike[str]


@dataclass
class Found:
    """The photos in some folders, and what was skipped.

    photos: paths as the file system spells them, in the order of the given places; sorted by name within a folder.
    folders: the folders that were searched.
    skipped: counts by reason: `other_files` (not named like photos), `hidden_files`, `hidden_folders`,
    `junk_folders`, `linked_folders`, `unreadable_folders`, `empty_folders` (given folders
    without photos), and `unreadable_photos` once the photos have been read.
    bad: name -> reason, for the folders and photos that could not be read.
    unseen: folders and links whose contents are unknown. That includes empty folders: their disk may not be mounted.
    suffixes: how the names of the files to find end, in lower case.
    """

    photos: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    bad: dict[str, str] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    suffixes: tuple[str, ...] = PHOTO_SUFFIXES

    def refuse(self, path: str, why: str, reason: str = "unreadable_photos") -> None:
        """Record why a photo or a folder could not be read."""
        self.skipped[reason] += 1
        self.bad[name_of(path)] = why


def name_of(path: str) -> str:
    """A path for reports and ids: in one spelling (NFC) and valid UTF-8, which file names need not be."""
    return unicodedata.normalize("NFC", path.encode("utf-8", "backslashreplace").decode())


def find_photos(*places: Place) -> Found:
    """Find the photos in folders and their subfolders, by suffix. A place that is not a folder is taken as a photo.

    Hidden files and hidden or junk folders are left out unless they are given explicitly. Links to files are read;
    links to folders are followed only if given explicitly. `-` is never a folder: it means stdin to commands.
    Folders that cannot be read or contain no photos are listed in `bad`. Raises InvalidArgument if no photo is left.
    """
    found = Found()
    for place in map(os.fsdecode, places):
        is_folder = place != "-" and os.path.isdir(place)
        found.photos += photos_below(place, found) if is_folder else [place]
    if not found.photos:
        raise InvalidArgument(
            next(iter(found.bad.values()), "no photos were given: give photos, or a folder of photos")
        )
    return found


def photos_below(folder: str, found: Found) -> list[str]:
    """The photos below one folder, sorted by name; everything that is skipped goes into `found`."""
    found.folders.append(folder)
    photos: list[str] = []
    waiting = [folder]
    while waiting:
        folders, here = list_folder(waiting.pop(), found)
        waiting += folders
        photos += here
    if not photos and name_of(folder) not in found.bad:
        why = f"no photos in the folder {short(folder)}: give one with .jpg, .png, ... files"
        found.refuse(folder, why, "empty_folders")
    return sorted(photos, key=lambda path: (name_of(path), path))


def list_folder(folder: str, found: Found, *, links: bool = False) -> tuple[list[str], list[str]]:
    """The subfolders and photos directly in a folder; what is skipped goes into `found`.

    links: follow links to folders.
    """
    listed: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            listed.extend(entries)  # keeps the entries that were read before an error
    except OSError as error:
        why = f"the folder {short(folder)} cannot be read ({error.strerror}): check its path and permissions"
        found.refuse(folder, why, "unreadable_folders")
        found.unseen.append(folder)
    if not listed:
        found.unseen.append(folder)
    folders: list[str] = []
    photos: list[str] = []
    for entry in listed:
        is_folder, is_link = _kind(entry)
        reason = _reason(entry.name, found.suffixes, is_folder, is_link and not links)
        if reason is None:
            (folders if is_folder else photos).append(entry.path)
        else:
            found.skipped[reason] += 1
        if is_link or (is_folder and reason):
            found.unseen.append(entry.path)
    return folders, photos


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Whether an entry is a folder or leads to one; and whether it is a link."""
    try:
        is_link = entry.is_symlink() or getattr(entry, "is_junction", bool)()  # Windows, from Python 3.12
        return entry.is_dir(), is_link
    except OSError:  # a circular link, or one to a place without permission
        return False, True


def _reason(name: str, suffixes: tuple[str, ...], is_folder: bool, is_link: bool) -> str | None:
    """Why an entry is skipped; None if it is not skipped."""
    if name.startswith("."):
        return "hidden_folders" if is_folder else "hidden_files"
    if not is_folder:
        return None if name.lower().endswith(suffixes) else "other_files"
    if name.lower() in JUNK_FOLDERS:
        return "junk_folders"
    return "linked_folders" if is_link else None


def readable(
    model: Model,
    names: Sequence[str],
    sources: Iterable[ImageSource],
    output: str,
    found: Found,
    *,
    progress: bool = False,
) -> Iterator[tuple[int, Row]]:
    """Yield, for each readable photo, its number (from 0) and its row (D,) of an output.

    The others go into `found`. progress: draw a bar on stderr if it is a terminal. Raises as `Model.answers` does.
    """
    with Progress(len(names), shown=progress) as bar:
        for number, (name, answer) in enumerate(zip(names, model.answers(sources, output), strict=True)):
            if isinstance(answer, ImageError):
                found.refuse(name, str(answer))
            else:
                yield number, answer
            bar.step()
