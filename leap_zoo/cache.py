"""What was pulled, on this device: content by its sha256, and an index of the models that it belongs to.

    LEAP_ZOO_HOME/index.json             an ordinary index; written last, under a lock
    LEAP_ZOO_HOME/blobs/<sha256>         cards and files, only ever moved in whole and checked
    LEAP_ZOO_HOME/signatures/<sha256>    the signature of the card with that sha256
    LEAP_ZOO_HOME/partial/<sha256>       a download that goes on later, and <sha256>.json: what it is a part of

No name that a server chose is a path here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from leap_zoo.atomic import atomic_file
from leap_zoo.card import Artifact, File, Index, IndexEntry, ModelCard
from leap_zoo.documents import parse_card, write_index
from leap_zoo.errors import CacheUnusable, InvalidArgument, InvalidCard, NotPulled, short
from leap_zoo.locks import locked
from leap_zoo.zoo import Zoo

_CHUNK = 1024 * 1024


class Cache:
    """The folder of what was pulled. Any number of processes may use it at once."""

    def __init__(self, home: Path) -> None:
        self.home = Path(os.path.expanduser(home))
        self.partials = self.home / "partial"

    def blob(self, sha256: str) -> Path:
        """Where the content with this digest is, or would be."""
        return self.home / "blobs" / sha256

    def has(self, published: File) -> bool:
        """Whether the content is there; `read` of the zoo checks it, as in every zoo."""
        try:
            return self.blob(published.sha256).stat().st_size == published.bytes
        except OSError:
            return False

    def check(self, published: File) -> bool:
        """Whether the content is there and is still what it was; what has rotted is removed. Raises OSError."""
        if not self.has(published):
            return False
        if sha256_of(self.blob(published.sha256)) == published.sha256:
            return True
        self.blob(published.sha256).unlink(missing_ok=True)
        return False

    def index(self) -> Index:
        """The models that were pulled, none when the folder cannot be read. Raises InvalidCard."""
        try:
            return Zoo(self.home).index()
        except InvalidArgument:
            return Index(models=[])
        except InvalidCard as error:
            raise InvalidCard(f"{error} (remove {short(self.home)} and pull again)") from error

    def prepare(self) -> None:
        """Make the folders. Raises CacheUnusable."""
        with usable(self.home):
            if str(self.home).startswith("~"):
                raise FileNotFoundError(errno.ENOENT, "there is no home folder")
            for name in ("blobs", "partial", "signatures"):
                (self.home / name).mkdir(parents=True, exist_ok=True)

    def check_room(self, count: int) -> None:
        """Raises CacheUnusable when the disk cannot take that many bytes."""
        with usable(self.home):
            free = shutil.disk_usage(self.home).free
            if free < count:
                raise OSError(errno.ENOSPC, f"{count} bytes are needed, {free} are free")

    def record(self, entry: IndexEntry, card: bytes, files: Iterable[File], signature: bytes | None) -> bool:
        """List a model whose `files` were stored; False when one has gone meanwhile. Raises CacheUnusable."""
        with usable(self.home), locked(self.home / "index.lock"):
            if not all(map(self.has, files)):
                return False
            with atomic_file(self.blob(entry.sha256)) as file:
                file.write(card)
            if signature is not None:
                with atomic_file(self.signature_path(entry)) as file:
                    file.write(signature)
            others = [other for other in self.index().models if other.id != entry.id]
            write_index(self.home / "index.json", Index(models=sorted([*others, entry], key=lambda one: one.id)))
            return True

    def signature_path(self, entry: IndexEntry) -> Path:
        """Where the signature of the model's card is, if it has one."""
        return self.home / "signatures" / entry.sha256

    def discard(self, digests: Iterable[str]) -> None:
        """Remove content that no model lists. Raises CacheUnusable."""
        with usable(self.home), locked(self.home / "index.lock"):
            listed = self._listed()
            for digest in set(digests) - listed:
                self.blob(digest).unlink(missing_ok=True)

    def prune(self) -> int:
        """Remove all content that no model lists, and unfinished downloads; returns how many bytes. May be interrupted.

        Raises CacheUnusable.
        """
        freed = 0
        with usable(self.home):
            with locked(self.home / "index.lock"):
                listed = self._listed()
                for name in ("blobs", "signatures"):
                    freed += sum(_remove(path) for path in [*(self.home / name).glob("*")] if path.name not in listed)
            for path in [*self.partials.glob("*")]:
                with locked(self.partials / f"{path.stem}.lock", wait=False) as mine:
                    freed += _remove(path) if mine and path.suffix != ".lock" else 0
        return freed

    def _listed(self) -> set[str]:
        listed = set()
        for entry in self.index().models:
            listed.add(entry.sha256)
            with contextlib.suppress(OSError):
                listed |= {file.sha256 for file in parse_card(self.blob(entry.sha256).read_bytes()).files}
        return listed


class CachedZoo(Zoo):
    """What was pulled, as a zoo: only some files of a model may be here."""

    def __init__(self, cache: Cache) -> None:
        super().__init__(cache.home)
        self.cache = cache

    def exists(self) -> bool:
        """Whether anything was ever pulled."""
        try:
            return (self.folder / "index.json").is_file()
        except OSError:
            return False

    def index(self) -> Index:
        """The models that were pulled. Raises InvalidCard."""
        return self.cache.index()

    def holds(self, card: ModelCard, artifact: Artifact) -> bool:
        """Whether every file of `artifact` was pulled."""
        return all(self.cache.has(file) for file in artifact.files)

    def paths(self, entry: IndexEntry, card: ModelCard) -> dict[str, Path]:
        """Where the files of a model are that were pulled, by the names that they were published under."""
        held = {file.file: self.cache.blob(file.sha256) for file in card.files if self.cache.has(file)}
        return {"card.json": self._card_path(entry), "model.sig": self._signature_path(entry)} | held

    def read(self, card: ModelCard, published: File) -> bytes:
        """The bytes of a file that `card` lists, size and sha256 checked. Raises ArtifactCorrupt, NotPulled."""
        if not self.cache.blob(published.sha256).exists():
            artifact = next((one for one in card.artifacts if published in one.files), card.artifacts[0])
            kind = f"--precision {artifact.precision} --format {artifact.format}"
            raise NotPulled(f"{published.file} of {card.id} was not pulled: leap-zoo pull {card.id} {kind}")
        return super().read(card, published)

    def _card_path(self, entry: IndexEntry) -> Path:
        return self.cache.blob(entry.sha256)

    def _signature_path(self, entry: IndexEntry) -> Path:
        return self.cache.signature_path(entry)

    def _path(self, model: str, published: File) -> Path:
        return self.cache.blob(published.sha256)

    def _mend(self, model: str) -> str:
        return f"leap-zoo pull {model}"


@contextlib.contextmanager
def usable(home: Path) -> Iterator[None]:
    """What the system says when it cannot keep a file, as an error of ours. Raises CacheUnusable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            mend = (
                "make room (leap-zoo cache --prune), or set LEAP_ZOO_HOME to a folder on another disk; then pull again"
            )
        else:
            mend = "set LEAP_ZOO_HOME to a folder that you may write"
        raise CacheUnusable(f"cannot keep files in {short(home)} ({error.strerror or error}): {mend}") from error


def sha256_of(path: Path) -> str:
    """The digest of a file, read in pieces. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _remove(path: Path) -> int:
    size = path.stat().st_size if path.exists() else 0
    path.unlink(missing_ok=True)
    return size
