"""Read regular files only; write files completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from leap_zoo.errors import InvalidArgument, LeapZooError, short

AnyPath = str | os.PathLike[str]

_PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _PLAIN  # a blocking open of a FIFO waits for a writer
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN
_MAX_LINKS = 40  # Linux's limit


def check_path(path: AnyPath) -> Path:
    """`path` as a Path.

    Raises InvalidArgument for other types (`open(5)` would open the caller's file descriptor 5).
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidArgument(f"a path must be a str or a Path, not {type(path).__name__}: pass the file's name")
    try:
        name = os.fspath(path)
    except TypeError as error:
        raise InvalidArgument(
            f"this {type(path).__name__} does not give a path ({error}): pass a str or a Path"
        ) from error
    if not isinstance(name, str):
        raise InvalidArgument("bytes are not supported as a path: decode them with os.fsdecode")
    return path if isinstance(path, Path) else Path(name)


def check_place(place: AnyPath, what: str) -> str:
    """A user's folder or URL as text. Raises InvalidArgument, also if it is empty, as an unset variable is."""
    text = place if isinstance(place, str) else str(check_path(place))
    if not text.strip() or "\0" in text:
        why = "has a null character" if text.strip() else "is empty"
        raise InvalidArgument(f"{what} {short(text)} {why}: give a folder or a URL")
    return text


@contextmanager
def failing_as(kind: type[LeapZooError], what: str, fix: str) -> Iterator[None]:
    """Turn an OSError in the block into `kind`, with the text "WHAT (reason): FIX"."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what} ({error.strerror or error}): {fix}") from error


def new_file(path: AnyPath, suffix: str) -> Path:
    """The path, if a file of that kind can be written there; checked before the work begins. Raises InvalidArgument."""
    target = check_path(path)
    if target.suffix != suffix:
        raise InvalidArgument(f"{short(target)} must end in {suffix}: choose another name")
    if not target.absolute().parent.is_dir():
        raise InvalidArgument(f"{short(target)} is in a folder that does not exist: create it first")
    return target


@contextmanager
def open_regular(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a regular file for reading: `with open_regular(path) as file:`. Links are followed.

    Raises OSError, also for a folder, a pipe or a device; InvalidArgument for anything but a str or a Path.
    """
    try:
        descriptor = os.open(check_path(path), _READ)
    except ValueError as error:  # a null character, or one that the file system cannot encode
        raise OSError(errno.EINVAL, "not a valid path") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def read_regular(path: AnyPath, limit: int) -> bytes:
    """The bytes of a regular file: at most `limit` + 1, so that the caller can tell that a file is too large.

    Allocates memory for the file's size, not for `limit`. Raises as `open_regular` does.
    """
    with open_regular(path) as file:
        return file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)


@contextmanager
def atomic_file(path: AnyPath) -> Iterator[BinaryIO]:
    """Write a file: `with atomic_file(path) as file:`. `path` is replaced at the end; an error leaves it unchanged.

    For a link, the file that it points to is replaced. An existing file keeps its permissions; a new one gets the
    umask's. A device or a pipe (`/dev/stdout`) cannot be replaced, so it is written directly.
    Raises OSError, InvalidArgument.
    """
    try:
        target = _follow(check_path(path))
        mode = None if target is None else _mode(target)
    except ValueError as error:  # as in open_regular
        raise OSError(errno.EINVAL, "not a valid path") from error
    if target is None or (mode is not None and not stat.S_ISREG(mode)):
        with open(path, "wb") as file:
            yield file
        return
    temporary = target.parent / f".{os.urandom(8).hex()}.tmp"  # short: `target` may have the longest possible name
    # The replacement of a private file is private from its first byte.
    descriptor = os.open(temporary, _CREATE, 0o666 if mode is None else 0o600)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        if mode is not None:
            os.chmod(temporary, mode & 0o777)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


@contextmanager
def saved_file(path: AnyPath) -> Iterator[BinaryIO]:
    """As `atomic_file`, for a path that the user chose: raises InvalidArgument in place of OSError."""
    failing = failing_as(InvalidArgument, f"{short(path)} cannot be written", "choose another path")
    with failing, atomic_file(path) as file:
        yield file


def write_file(path: AnyPath, data: bytes) -> None:
    """Write a whole file with `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def _follow(path: Path) -> Path | None:
    """The file that the links of `path` lead to; None for an open file in /proc/.../fd, whose name may be stale."""
    for _ in range(_MAX_LINKS):
        if os.path.realpath(path.parent).startswith(("/proc/", "/dev/fd")):
            return None
        if not path.is_symlink():
            return path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def sync_folder(folder: AnyPath) -> None:
    """Flush the entries of `folder` to disk, which flushing the files does not do. Raises OSError."""
    if os.name == "nt":  # Windows cannot open folders, and does not need this
        return
    descriptor = os.open(folder, os.O_RDONLY | _PLAIN)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
