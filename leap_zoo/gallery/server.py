"""The galleries of one Qdrant server: which there are, opening one, and taking one away."""

from __future__ import annotations

from urllib.parse import urlsplit

from leap_zoo.errors import InvalidArgument, short
from leap_zoo.gallery import Kind
from leap_zoo.gallery.qdrant import QdrantGallery, asking, connect


class QdrantServer:
    """A connection that all galleries of the server share. Methods may be called from several threads at once."""

    def __init__(self, url: str) -> None:
        """url: `qdrant://HOST[:PORT]` or `https://HOST[:PORT]`; the API key is LEAP_ZOO_QDRANT_KEY's.

        The server is not asked yet. Raises InvalidArgument, MissingExtra.
        """
        if urlsplit(url).path.strip("/"):
            raise InvalidArgument(f"{short(url)} names a collection: give the server alone, qdrant://HOST:PORT")
        self._client = connect(url)
        self._url = url

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._url}>"

    def collections(self) -> list[str]:
        """The names of all collections, sorted; those of others too. Raises InvalidGallery."""
        with asking("list"):
            return sorted(one.name for one in self._client.get_collections().collections)

    def holds(self, collection: str) -> bool:
        """Whether there is such a collection. Raises InvalidGallery when the server cannot be asked."""
        with asking(collection):
            return bool(self._client.collection_exists(collection))

    def open(self, collection: str, kind: Kind | None = None) -> QdrantGallery:
        """The gallery; made when there is none and `kind` says of what. Closing it would close the others too.

        Raises InvalidGallery.
        """
        return QdrantGallery(self._client, collection, kind)

    def drop(self, collection: str) -> bool:
        """Delete a collection with all that is in it; whether there was one. Raises InvalidGallery."""
        there = self.holds(collection)
        with asking(collection):
            self._client.delete_collection(collection)
        return there

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
