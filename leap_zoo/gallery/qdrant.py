"""A gallery on a Qdrant server, for more vectors than one machine holds; extra `qdrant`.

An item is a point: its UUID is derived from the item's id, its payload is {"id": ..., "metadata": {...}}. The kind of
the vectors (model, revision, space) is in the collection's metadata and is checked when the collection is opened.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from leap_zoo.errors import InvalidArgument, InvalidGallery, import_extra
from leap_zoo.gallery import EXPORT_ROWS, Gallery, Hit, Item, Kind, Value, Vectors, Where, no_such_item, paged
from leap_zoo.settings import read_settings

PORT = 6333
BATCH = 256  # points per request
TIMEOUT = 60  # seconds
INDEXED = 16  # names of metadata with an index in a collection; `where` also finds others, more slowly
KEY = "leap_zoo"  # key in the collection's metadata
NAMESPACE = uuid.UUID("6f6b3c1e-6a5e-5b0f-9a57-1d0c5a2f7e11")

# The message does not repeat the URL, which may contain a password.
_URL = (
    "a gallery's URL is qdrant://HOST:PORT/COLLECTION, http://... or https://...; names have letters, digits, - and _"
)
_COLLECTION = re.compile(r"\A[A-Za-z0-9_-]{1,128}\Z")


class NoCollection(InvalidGallery):
    """The server has no collection of this name."""


class QdrantGallery(Gallery):
    """A collection on a Qdrant server. Searches are as exact as the server's index."""

    def __init__(self, client: Any, collection: str, kind: Kind | None = None) -> None:
        """client: a qdrant_client.QdrantClient. kind: for a collection that has to be created."""
        self.client, self.collection = client, collection
        self.models = import_extra("qdrant_client", "qdrant").models
        with asking(collection):
            if kind is not None and not client.collection_exists(collection):
                self._create(kind)
            self.kind = self._kind()

    @classmethod
    def open_url(cls, url: str, kind: Kind | None = None) -> QdrantGallery:
        """`qdrant://HOST[:PORT]/COLLECTION`, `http://...` or `https://...`; the API key is LEAP_ZOO_QDRANT_KEY's.

        Raises InvalidArgument for other URLs, InvalidGallery if the server cannot be used, MissingExtra.
        """
        client, collection = connect(url)
        if not _COLLECTION.match(collection):
            raise InvalidArgument(_URL)
        return cls(client, collection, kind)

    def count(self) -> int:
        """The number of items, as the server estimates it: counting exactly would read every point."""
        with asking(self.collection):
            return int(self.client.count(self.collection, exact=False).count)

    def items(self, offset: int = 0, limit: int | None = None, *, after: str | None = None) -> list[Item]:
        """Items, ordered by the points' UUIDs."""
        pages = self._pages(vectors=False, start=None if after is None else _point(after))
        items = (Item(*_named(record.payload)) for page in pages for record in page)
        if after is not None and getattr(next(items, None), "id", None) != after:
            raise no_such_item(after)
        return paged(items, offset, limit)

    def export(self) -> Iterator[tuple[list[str], Vectors, list[dict[str, Value]]]]:
        """Everything in batches, each in the server's state at that moment."""
        for page in self._pages(vectors=True):
            named = [_named(record.payload) for record in page]
            rows = np.array([record.vector for record in page], np.float32)
            yield [name for name, _ in named], rows, [fields for _, fields in named]

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _add(self, ids: list[str], rows: Vectors, metadata: list[dict[str, Value]]) -> None:
        """Send requests of 256 items; each is durable once it is answered."""
        points = [
            self.models.PointStruct(id=_point(name), vector=row.tolist(), payload={"id": name, "metadata": one})
            for name, row, one in zip(ids, rows, metadata, strict=True)
        ]
        with asking(self.collection):
            self._index(metadata)
            for start in range(0, len(points), BATCH):
                self.client.upsert(self.collection, points[start : start + BATCH], wait=True)

    def _index(self, metadata: list[dict[str, Value]]) -> None:
        """Index new names of metadata by the type of a value, so that `where` does not read every point."""
        kinds = {str: "keyword", int: "integer", bool: "bool"}
        for name, value in {name: value for fields in metadata for name, value in fields.items()}.items():
            key, kind = f"metadata.{name}", kinds.get(type(value))
            if kind is not None and key not in self._indexed and len(self._indexed) < INDEXED:
                self.client.create_payload_index(self.collection, key, field_schema=kind, wait=False)
                self._indexed.add(key)

    def _delete(self, ids: list[str]) -> int:
        points, found = [_point(name) for name in ids], 0
        with asking(self.collection):
            for start in range(0, len(points), BATCH):
                part = points[start : start + BATCH]
                found += len(self.client.retrieve(self.collection, part, with_payload=False))
                self.client.delete(self.collection, self.models.PointIdsList(points=part), wait=True)
        return found

    def _search(self, queries: Vectors, k: int, where: Where) -> list[list[Hit]]:
        models = self.models
        must = [
            models.FieldCondition(key=f"metadata.{key}", match=models.MatchValue(value=value))
            for key, value in where.items()
        ]
        wanted = models.Filter(must=must) if must else None
        requests = [
            models.QueryRequest(query=query.tolist(), limit=k, filter=wanted, with_payload=True) for query in queries
        ]
        with asking(self.collection):
            answers = self.client.query_batch_points(self.collection, requests) if requests else []
        return [
            [
                Hit(name, max(-1.0, min(1.0, float(point.score))), fields)
                for point in answer.points
                for name, fields in [_named(point.payload)]
            ]
            for answer in answers
        ]

    def _pages(self, *, vectors: bool, start: str | None = None) -> Iterator[list[Any]]:
        following: Any = start
        while True:
            with asking(self.collection):
                page, following = self.client.scroll(
                    self.collection, limit=EXPORT_ROWS, offset=following, with_payload=True, with_vectors=vectors
                )
            if page:
                yield page
            if following is None:
                return

    def _create(self, kind: Kind) -> None:
        models, about = self.models, {KEY: {"schema": 1, "kind": msgspec.to_builtins(kind)}}
        shape = models.VectorParams(size=kind.dim, distance=models.Distance.COSINE)
        try:
            self.client.create_collection(self.collection, vectors_config=shape, metadata=about)
        except Exception:
            if not self.client.collection_exists(self.collection):  # otherwise another client was first
                raise

    def _kind(self) -> Kind:
        from qdrant_client.http.exceptions import UnexpectedResponse

        try:
            info = self.client.get_collection(self.collection)
        except (UnexpectedResponse, ValueError) as error:  # ValueError: of the client's local mode
            if getattr(error, "status_code", 404) != 404:
                raise
            missing = f"the server has no collection {self.collection}: create it with leap-zoo index"
            raise NoCollection(missing) from error
        config, self._indexed = info.config, set(info.payload_schema or ())
        about = (config.metadata or {}).get(KEY)
        if about is None:
            raise InvalidGallery(
                f"the collection {self.collection} does not name the model of its embeddings: give one that "
                "leap-zoo created, on a Qdrant server of version 1.16 or newer"
            )
        try:
            kind = msgspec.convert(about["kind"], Kind)
        except (msgspec.ValidationError, LookupError, TypeError) as error:
            raise InvalidGallery(
                f"the metadata of the collection {self.collection} is damaged ({error}): create the collection again"
            ) from error
        shape = config.params.vectors
        if getattr(shape, "size", None) != kind.dim or shape.distance != self.models.Distance.COSINE:
            raise InvalidGallery(
                f"the vectors of the collection {self.collection} are not those of {kind}, compared by cosine"
            )
        return kind


def connect(url: str) -> tuple[Any, str]:
    """A client for the server, not yet connected, and the URL's path: `qdrant://HOST[:PORT][/PATH]`, `http(s)://...`.

    Raises InvalidArgument, MissingExtra.
    """
    import httpx

    try:
        httpx.URL(url)  # stricter than urlsplit, but it drops a scheme's default port
        parts = urlsplit(url)
        port = PORT if parts.port is None else parts.port
    except (ValueError, httpx.InvalidURL) as error:
        raise InvalidArgument(_URL) from error
    if parts.username or parts.password:
        raise InvalidArgument("a gallery's URL has no user or password: set LEAP_ZOO_QDRANT_KEY to the API key")
    known = parts.scheme in ("qdrant", "http", "https") and parts.hostname and port
    if not known or parts.query or parts.fragment:
        raise InvalidArgument(_URL)
    client = import_extra("qdrant_client", "qdrant").QdrantClient(
        host=parts.hostname,
        port=port,
        https=parts.scheme == "https",
        api_key=read_settings().qdrant_key,
        timeout=TIMEOUT,
        check_compatibility=False,  # it contacts the server at once and warns on stderr
    )
    return client, parts.path.strip("/")


def _point(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, name))


def _named(payload: Any) -> tuple[str, dict[str, Value]]:
    try:
        return str(payload["id"]), dict(payload["metadata"])
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidGallery(
            "a point in the collection was not written by leap-zoo: delete it from the collection"
        ) from error


@contextmanager
def asking(collection: str) -> Iterator[None]:
    """Turn any error of the server or the network into InvalidGallery, in one line."""
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidGallery(
            f"the Qdrant collection {collection} cannot be used ({text}): check that the server is running"
        ) from error
