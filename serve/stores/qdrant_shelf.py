"""Galleries on a Qdrant server, a collection each."""

from __future__ import annotations

from leap_zoo.errors import InvalidArgument, InvalidGallery
from leap_zoo.gallery import Gallery, Kind
from leap_zoo.gallery.qdrant import QdrantGallery, asking, connect
from serve.problems import Refused
from serve.stores.names import name_of, stem_of
from serve.stores.shelves import About, unavailable

PREFIX = "leap-zoo-"  # of our collections on a server that may hold others
MAX_COLLECTION = 128  # characters


class QdrantShelf:
    """Collections of a server, perhaps shared with other services: every call asks it anew."""

    attempts = 1  # what fails there may take a minute, and the server keeps readers and writers apart

    def __init__(self, url: str) -> None:
        """url: `qdrant://HOST:PORT`; it is not asked yet. Raises InvalidArgument, MissingExtra."""
        self._client, collection = connect(url)
        if collection:
            raise InvalidArgument("the URL names a collection: give the server alone, qdrant://HOST:PORT")

    def names(self) -> list[str]:
        """See `Shelf.names`: collections whose name begins as ours do."""
        with asking("list"):
            collections = [one.name for one in self._client.get_collections().collections]
        ours = (name.removeprefix(PREFIX) for name in collections if name.startswith(PREFIX))
        return sorted(name for name in map(name_of, ours) if name is not None)

    def about(self, name: str) -> About | None:
        """See `Shelf.about`."""
        gallery = self.open(name)
        return None if gallery is None else About(name, gallery.kind, gallery.count(), None)

    def open(self, name: str) -> Gallery | None:
        """See `Shelf.open`."""
        collection = self._collection(name)
        return QdrantGallery(self._client, collection) if self._holds(collection) else None

    def make(self, name: str, kind: Kind) -> Gallery:
        """See `Shelf.make`."""
        return QdrantGallery(self._client, self._collection(name), kind)

    def drop(self, name: str) -> bool:
        """See `Shelf.drop`."""
        collection = self._collection(name)
        there = self._holds(collection)
        with asking(collection):
            self._client.delete_collection(collection)
        return there

    def used(self) -> int:
        """See `Shelf.used`."""
        return 0

    def explain(self, name: str, error: InvalidGallery) -> Refused:
        """See `Shelf.explain`."""
        return unavailable(error)

    def close(self) -> None:
        """See `Shelf.close`."""
        self._client.close()

    def _holds(self, collection: str) -> bool:
        with asking(collection):
            return bool(self._client.collection_exists(collection))

    def _collection(self, name: str) -> str:
        collection = PREFIX + stem_of(name)
        if len(collection) > MAX_COLLECTION:
            raise Refused(422, "invalid_name", "The name is too long for this server: give a shorter one.")
        return collection
