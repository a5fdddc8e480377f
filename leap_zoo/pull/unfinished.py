"""An unfinished download, which goes on where it stopped, even after a kill or a power cut.

The bytes are in the cache's `partial/<sha256>`, what they are a part of in `<sha256>.json`: the validator (ETag or
Last-Modified) with which the server named the version that it sent. Whoever has one open holds the lock of its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

import msgspec

from leap_zoo.cache import Cache, usable
from leap_zoo.card import File
from leap_zoo.errors import ArtifactCorrupt, short
from leap_zoo.locks import locked
from leap_zoo.zoo import differs, read_regular

_CHUNK = 1024 * 1024
_MAX_NOTE_BYTES = 4096


class _Note(msgspec.Struct):
    validator: str


class Partial:
    """The first `size` bytes of a file; `validator` names the version on the server that they are of, if it can."""

    def __init__(self, cache: Cache, published: File) -> None:
        self.published = published
        self.size = 0
        self.validator: str | None = None
        self._cache = cache
        self._path = cache.partials / published.sha256
        self._note = cache.partials / f"{published.sha256}.json"
        self._digest = hashlib.sha256()
        self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115
        self._read()
        self.resumed = self.size > 0

    def begin(self, validator: str | None) -> None:
        """From the first byte. Raises CacheUnusable."""
        with usable(self._cache.home):
            self._file.truncate(0)
            self._digest, self.size, self.validator = hashlib.sha256(), 0, validator
            if validator is None:
                self._note.unlink(missing_ok=True)
            else:
                self._note.write_bytes(msgspec.json.encode(_Note(validator)))  # a torn one means starting over

    def append(self, chunk: bytes) -> None:
        """The next bytes. Raises ArtifactCorrupt when they are more than there should be, CacheUnusable."""
        if self.size + len(chunk) > self.published.bytes:
            raise ArtifactCorrupt(
                f"{short(self.published.file)} is larger than the {self.published.bytes} bytes of its card: refused"
            )
        with usable(self._cache.home):
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._digest.update(chunk)
        self.size += len(chunk)

    def finish(self) -> None:
        """Check it, and move it to the cache's blobs. Raises ArtifactCorrupt, CacheUnusable."""
        if self.size != self.published.bytes:
            raise ArtifactCorrupt(
                f"{short(self.published.file)} has {self.size} bytes, its card says {self.published.bytes}: refused"
            )
        found = self._digest.hexdigest()
        if found != self.published.sha256:
            mend = "ask whoever runs the zoo to publish it again"
            raise ArtifactCorrupt(differs(self.published.file, self.published.sha256, found, mend))
        with usable(self._cache.home):
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._path, self._cache.blob(found))
            self._note.unlink(missing_ok=True)

    def close(self, *, keep: bool) -> None:
        """Let go of it; what cannot go on later is removed."""
        self._file.close()
        if not keep or self.size == 0 or self.validator is None:
            with contextlib.suppress(OSError):
                self._note.unlink(missing_ok=True)
                self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        """What an earlier process left, if it can go on."""
        try:
            self.validator = msgspec.json.decode(read_regular(self._note, _MAX_NOTE_BYTES), type=_Note).validator
        except (OSError, msgspec.DecodeError):
            self._file.truncate(0)
            return
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            self._digest.update(chunk)
            self.size += len(chunk)
        if self.size > self.published.bytes:
            self.begin(None)


@contextlib.contextmanager
def partial(cache: Cache, published: File) -> Iterator[Partial | None]:
    """The download of a file, which no other process is at; None when it has arrived already.

    What was begun is kept for later when the block raises, unless it raises ArtifactCorrupt. Raises CacheUnusable.
    """
    with contextlib.ExitStack() as stack:
        with usable(cache.home):
            stack.enter_context(locked(cache.partials / f"{published.sha256}.lock"))
            download = None if cache.check(published) else Partial(cache, published)
        if download is None:
            yield None
            return
        keep = True
        try:
            yield download
        except ArtifactCorrupt:
            keep = False
            raise
        finally:
            download.close(keep=keep)
