"""Galleries by name: each of one model, revision and space, bounded in number, items and bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from leap_zoo.errors import InvalidArgument, InvalidGallery
from leap_zoo.gallery import (
    Gallery,
    Hit,
    Item,
    Kind,
    Metadata,
    Vectors,
    Where,
    checked_ids,
    checked_metadata,
)
from serve.problems import Refused, sentence
from serve.stores.exports import Export, Exports
from serve.stores.limits import Limits
from serve.stores.names import checked_name, stem_of
from serve.stores.shelves import About, Shelf, unavailable
from serve.stores.turns import Turns

_MAKING = ".galleries"  # the turn of whoever makes one: no stem has a dot


Answer = TypeVar("Answer")
Found = list[list[Hit]]


class GalleryStore:
    """The galleries of the service. All methods block; several threads and processes may call them.

    They raise Refused: 422 for names, ids and metadata that are none, 404 for a gallery that nobody has, 409 for
    embeddings of another kind and for what would pass a limit, 503 when the disk or the server fails, 500 for damaged
    files.
    """

    def __init__(self, shelf: Shelf, work: Path, limits: Limits) -> None:
        """shelf: where they lie. work: a folder for locks and for files that are written while they are sent."""
        self._shelf = shelf
        self._turns = Turns(work)
        self._turns.sweep()
        self._exports = Exports(work, limits.exports)
        self.limits = limits

    def list(self) -> Sequence[About]:
        """All of them, by name; those with a damaged manifest are left out."""
        found = []
        with self._refusing(""):
            for name in self._shelf.names():
                try:
                    found.append(self._shelf.about(name))
                except InvalidGallery as error:
                    if self._shelf.explain(name, error).status == 503:
                        raise
        return [about for about in found if about is not None]

    def about(self, name: str) -> About:
        """What a gallery is."""
        return self.find(name) or _unknown(name)

    def find(self, name: str) -> About | None:
        """What a gallery is; None when there is none of this name."""
        with self._refusing(checked_name(name)):
            return self._shelf.about(name)

    def checked(
        self, ids: Sequence[str], metadata: Sequence[Metadata] | None
    ) -> tuple[Sequence[str], Sequence[Metadata]]:
        """Ids and metadata that can be kept: before the effort of embedding. Raises Refused (422)."""
        for number, one in enumerate(ids):
            if len(one) > self.limits.id_characters:
                detail = f"This id has more than {self.limits.id_characters} characters: shorten it."
                raise Refused(422, "invalid_id", detail, index=number)
        try:
            fields = checked_metadata(metadata, len(ids))
        except InvalidArgument as error:
            raise Refused(422, "invalid_metadata", sentence(str(error))) from error
        return _checked(ids), fields

    def add(
        self, name: str, kind: Kind, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata] | None = None
    ) -> int:
        """Add or replace items, durably, and make the gallery when there is none; returns how many items it has then.

        kind: of the vectors (N, D). Raises as `checked` does.
        """
        stem = stem_of(name)
        names, fields = self.checked(ids, metadata)
        size = 4 * vectors.size + sum(map(_bytes_of, names, fields))
        with self._refusing(name), self._turns.of(stem):
            gallery = self._shelf.open(name)
            if gallery is not None:
                require(gallery.kind, kind)
            self._check_room(gallery, names, size)
            if gallery is None:
                gallery = self._made(name, kind)
            gallery.add(names, vectors, fields)
            return gallery.count()

    def search(self, name: str, kind: Kind, vectors: Vectors, k: int, where: Where | None = None) -> Found:
        """The k nearest items to each query, as `Gallery.search`; kind: of the queries. Raises InvalidArgument."""

        def find(gallery: Gallery) -> Found:
            require(gallery.kind, kind)
            return gallery.search(vectors, k, where)

        return self._read(name, find)

    def items(self, name: str, offset: int = 0, limit: int | None = None) -> Sequence[Item]:
        """A page of a gallery's items, in its own order."""
        return self._read(name, lambda gallery: gallery.items(offset, limit))

    def export(self, name: str) -> Export:
        """All of a gallery as the blocks of an npz file."""
        return self._read(name, self._exports.begin)

    def delete_items(self, name: str, ids: Sequence[str]) -> int:
        """Take items out; how many of them were there."""
        names = _checked(ids)
        with self._turn(name):
            return self._read(name, lambda gallery: gallery.delete(names))

    def delete(self, name: str) -> None:
        """Take a gallery away with all that is in it."""
        with self._turn(name):
            if not self._shelf.drop(name):
                _unknown(name)

    def close(self) -> None:
        """Let go of connections."""
        self._shelf.close()

    def _made(self, name: str, kind: Kind) -> Gallery:
        with self._turns.of(_MAKING):
            if len(self._shelf.names()) >= self.limits.galleries:
                detail = f"There are {self.limits.galleries} galleries, which is the limit here: delete one first."
                raise Refused(409, "too_many_galleries", detail)
            return self._shelf.make(name, kind)

    def _check_room(self, gallery: Gallery | None, names: Sequence[str], size: int) -> None:
        """Before anything is written. The bytes of writers of other galleries at the same moment are not counted."""
        count = 0 if gallery is None else gallery.count()
        if gallery is not None and count + len(names) > self.limits.items:
            count -= len({item.id for item in gallery.items()} & set(names))  # they are replaced
        if count + len(names) > self.limits.items:
            detail = f"A gallery holds at most {self.limits.items} items here: delete some first."
            raise Refused(409, "gallery_full", detail)
        if self._shelf.used() + size > self.limits.gallery_bytes:
            detail = "All galleries together have as many bytes as they may have here: delete some items first."
            raise Refused(409, "store_full", detail)

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        stem = stem_of(name)
        with self._refusing(name), self._turns.of(stem):
            yield

    def _read(self, name: str, work: Callable[[Gallery], Answer]) -> Answer:
        """Reading waits for nobody: the gallery may be deleted and made anew meanwhile, and then is read again."""
        with self._refusing(checked_name(name)):
            for _ in range(self._shelf.attempts - 1):
                with contextlib.suppress(InvalidGallery):
                    return work(self._shelf.open(name) or _unknown(name))
            return work(self._shelf.open(name) or _unknown(name))

    @contextlib.contextmanager
    def _refusing(self, name: str) -> Iterator[None]:
        try:
            yield
        except InvalidGallery as error:
            raise self._shelf.explain(name, error) from error
        except OSError as error:
            raise unavailable(error) from error


def require(found: Kind, wanted: Kind) -> None:
    """Raises Refused (409) unless vectors of the two kinds can be compared."""
    if found != wanted:
        detail = f"The gallery holds embeddings of {found}, not of {wanted}, and these cannot be compared."
        raise Refused(409, "other_embeddings", f"{detail} Name that model and space, or another gallery.")


def _checked(ids: Sequence[str]) -> Sequence[str]:
    try:
        return checked_ids(ids)
    except InvalidArgument as error:
        raise Refused(422, "invalid_id", sentence(str(error))) from error


def _unknown(name: str) -> NoReturn:
    raise Refused(404, "unknown_gallery", f"There is no gallery {name}. GET /v1/gallery lists them.")


def _bytes_of(name: str, fields: Metadata) -> int:
    return len(name.encode()) + len(msgspec.json.encode(fields))
