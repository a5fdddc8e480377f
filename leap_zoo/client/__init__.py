"""A running service with the methods of `Model`, and its galleries and heads.

    from leap_zoo.client import Client

    with Client("http://localhost:3000") as client:
        client.classify("photo.jpg", top=3)  # [Prediction(label, score, index), ...]
        client.embed(["a.jpg", "b.jpg"])  # float32 (2, D), L2-normalised

Not imported by `import leap_zoo`. httpx is imported by the first Client.
"""

from __future__ import annotations

import base64
import os
from typing import Annotated, Any, overload

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.card import Name
from leap_zoo.client.connection import Connection
from leap_zoo.client.photos import body_of, by_class, in_requests, photo_bytes, some_ids
from leap_zoo.errors import InvalidArgument, UnknownModel, nearest, short
from leap_zoo.files import atomic_file
from leap_zoo.gallery import Hit, Where
from leap_zoo.heads import MAX_HEAD_BYTES, CustomHead, decode_head
from leap_zoo.model import Batch, Images, OneFile, Prediction, Predictions, Space, output_of
from leap_zoo.preprocess import many_images

__all__ = ["Client"]

TIMEOUT = 30.0
ATTEMPTS = 5
MAX_EXPORT = 8 * 2**30  # bytes: twice what a service keeps in galleries


class Client:
    """A service at `url`. Methods may be called from several threads at once; close it, or use it as a context.

    Images are what `Model` takes: paths, bytes, PIL images, uint8 arrays; a list, a tuple or an array (N, H, W, 3) is
    many, and may be sent in several requests. Files are sent as they are, arrays and PIL images as PNG, so a service
    and a `Model` of the same file give the same answers.

    key: an API key, where the service wants one. timeout: seconds for each step of a request. attempts: how often a
    busy service (503 with Retry-After) is asked.
    All methods raise ServiceFailed when it stays busy, fails or cannot be reached, ServiceRefused for what it refuses,
    and what the same method of `Model` raises.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = TIMEOUT, *, attempts: int = ATTEMPTS) -> None:
        """Raises InvalidArgument. The service is not asked yet."""
        self._connection = Connection(url, key, timeout, attempts)

    def __repr__(self) -> str:
        return f"<Client {self._connection.name}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    @overload
    def classify(
        self,
        images: OneFile,
        *,
        top: int = 5,
        head: str | None = None,
        model: str | None = None,
        precision: str | None = None,
    ) -> Predictions: ...
    @overload
    def classify(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        top: int = 5,
        head: str | None = None,
        model: str | None = None,
        precision: str | None = None,
    ) -> Batch: ...
    @overload
    def classify(
        self,
        images: Any,
        *,
        top: int = 5,
        head: str | None = None,
        model: str | None = None,
        precision: str | None = None,
    ) -> Predictions | Batch: ...
    def classify(
        self,
        images: Images,
        *,
        top: int = 5,
        head: str | None = None,
        model: str | None = None,
        precision: str | None = None,
    ) -> Predictions | Batch:
        """The `top` most probable classes, best first: a list for one image, a list of lists for many.

        head: one of the model's own, or one made with `fit`. model, precision: default: what the service serves.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InvalidArgument(f"top must be a whole number of at least 1, not {short(top)}")
        query = _given(top=top, head=head, model=model, precision=precision)
        predictions, many = self._photos("predictions", "/v1/classify", query, images)
        return predictions if many else predictions[0]

    def embed(
        self,
        images: Images,
        *,
        space: Space = "student",
        model: str | None = None,
        precision: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """L2-normalised embeddings, float32: (D,) for one image, (N, D) for many, in the space as of `Model.embed`."""
        output_of(space)
        query = _given(space=space, encoding="base64", model=model, precision=precision)
        rows, many = self._photos("embeddings", "/v1/embed", query, images)
        if not many:
            only: npt.NDArray[np.float32] = rows[0]
            return only
        return np.stack(rows) if rows else np.empty((0, self._width(space, model)), np.float32)

    def search(
        self, images: Images, gallery: str, *, k: int = 10, where: Where | None = None
    ) -> list[Hit] | list[list[Hit]]:
        """The k nearest items of a gallery, nearest first: a list for one image, a list of lists for many."""
        conditions = None if where is None else _json(dict(where))["content"].decode()
        query = _given(gallery=gallery, k=k, where=conditions)
        hits, many = self._photos("hits", "/v1/search", query, images)
        return hits if many else hits[0]

    def galleries(self) -> list[dict[str, Any]]:
        """The galleries, by name: name, model, revision, space, dim, items, bytes."""
        return self._listed("/v1/gallery", "galleries")

    def add(
        self,
        gallery: str,
        ids: list[str],
        images: list[Any] | tuple[Any, ...],
        metadata: list[dict[str, Any]] | None = None,
        *,
        space: Space | None = None,
    ) -> None:
        """Add photos to a gallery, or replace those of the same ids; makes the gallery when there is none.

        Many photos take several requests. When one of them fails, the photos of those before it are there.
        """
        if not isinstance(images, (list, tuple)) or isinstance(ids, str):
            raise InvalidArgument("add takes lists: of ids, and of as many images")
        if len(ids) != len(images) or (metadata is not None and len(metadata) != len(images)):
            raise InvalidArgument(f"{len(images)} images need as many ids, and as many metadata or none")
        path, query = _path("gallery", gallery), _given(space=space)

        def send(first: int, photos: list[bytes]) -> None:
            body: dict[str, Any] = {
                "images": [base64.b64encode(photo).decode() for photo in photos],
                "ids": ids[first : first + len(photos)],
            }
            if metadata is not None:
                body["metadata"] = metadata[first : first + len(photos)]
            self._connection.send("POST", path, params=query, **_json(body))

        in_requests(images, send)

    def delete(self, gallery: str, ids: list[str] | None = None) -> None:
        """Take items out of a gallery; ids that are not there are no error. Without ids, delete the gallery itself."""
        if isinstance(ids, str) or not all(isinstance(one, str) for one in ids or []):
            raise InvalidArgument("delete takes a list of ids, which are texts")
        if ids is None:
            self._connection.send("DELETE", _path("gallery", gallery))
        for some in some_ids(ids or []):
            self._connection.send("DELETE", _path("gallery", gallery, "items"), params={"id": some})

    def export(self, gallery: str, path: str | os.PathLike[str]) -> None:
        """Write a gallery to `path` as npz: ids, embeddings, metadata (uint8: a line of JSON per item), model, ...

        An existing file is replaced at the end; after an error it is as it was.
        """
        source = _path("gallery", gallery, "export")
        try:
            with atomic_file(path) as file:
                self._connection.receive(file.write, "GET", source, limit=MAX_EXPORT)
        except OSError as error:
            raise InvalidArgument(
                f"{short(path)} cannot be written ({error.strerror or error}): give another path"
            ) from error

    def heads(self) -> list[dict[str, Any]]:
        """The heads that clients have made, by name: name, labels, photos, kind, model, validation, ..."""
        return self._listed("/v1/heads", "heads")

    def head(self, name: str) -> CustomHead:
        """A head that a client has made, for `Model.classify` on this machine, or to `save`."""
        return decode_head(self._connection.send("GET", _path("heads", name, "file"), limit=MAX_HEAD_BYTES))

    def fit(
        self, name: str, classes: dict[str, list[Any]], *, space: Space = "student", replace: bool = False
    ) -> dict[str, Any]:
        """Make a head from labelled images, for `classify(..., head=name)`. Returns what the service says of it.

        All images are sent in one request. Those that the service cannot read are left out, and named in `skipped`.
        """
        output_of(space)
        body = {
            "classes": {
                label: [base64.b64encode(photo).decode() for photo in photos]
                for label, photos in by_class(classes).items()
            }
        }
        query = {"space": space, "replace": "true" if replace else "false"}
        return self._connection.ask(
            dict[str, Any], "POST", _path("heads", name), params=query, repeatable=False, **_json(body)
        )

    def delete_head(self, name: str) -> None:
        """Take a head away."""
        self._connection.send("DELETE", _path("heads", name))

    def models(self) -> list[dict[str, Any]]:
        """What may be asked for, the default model first: id, revision, heads, embedding_dims, artifacts, ..."""
        return self._listed("/v1/models", "data")

    def _listed(self, path: str, field: str) -> list[dict[str, Any]]:
        answer = self._connection.ask(dict[str, Any], "GET", path)
        try:
            return msgspec.convert(answer.get(field), list[dict[str, Any]])
        except msgspec.ValidationError as error:
            raise self._connection.strange(f"{field}: {error}", path) from error

    def _photos(self, field: str, path: str, query: dict[str, str], images: Images) -> tuple[list[Any], bool]:
        """A row for each photo, of the one or several requests that they take; and whether many were given."""
        rows: list[Any] = []
        answerers = set()

        def send(_: int, photos: list[bytes]) -> None:
            answer = self._connection.ask(_Answer, "POST", path, params=query, **body_of(photos))
            answerers.add((answer.model, answer.revision, answer.dim))
            if len(answerers) > 1:
                raise self._connection.strange("another model or revision than for the photos before", path)
            found = getattr(answer, field)
            if len(found) != len(photos):
                raise self._connection.strange(f"{len(found)} answers for {len(photos)} photos", path)
            try:
                rows.extend(answer.rows(field))
            except ValueError as error:
                raise self._connection.strange(str(error), path) from error

        many = many_images(images)
        if many is None:
            send(0, [photo_bytes(images)])  # type: ignore[arg-type]
        else:
            in_requests(many, send)
        return rows, many is not None

    def _width(self, space: str, model: str | None) -> int:
        known = self.models()
        ids = [str(one.get("id")) for one in known]
        if model is not None and model not in ids:
            raise UnknownModel(f"unknown model {short(model)}{nearest(model, ids)}")
        try:
            return msgspec.convert(known[ids.index(model) if model else 0]["embedding_dims"][space], _Width)
        except (LookupError, TypeError, msgspec.ValidationError) as error:
            raise self._connection.strange(f"no dimensions: {error}", "/v1/models") from error


class _Answer(msgspec.Struct):
    """Who answered, and a row for each photo in the field that the route fills. Nothing in it is trusted."""

    model: str
    revision: str
    predictions: list[list[Prediction]] = []
    hits: list[list[Hit]] = []
    embeddings: list[bytes] = []  # msgspec reads base64
    dim: int = 0
    unsure: list[bool] = []  # of predictions, as distances; an older service sends neither
    distances: list[float | None] = []

    def rows(self, field: str) -> list[Any]:
        """A row for each photo: Predictions, hits, or vectors (D,). Raises ValueError for what does not fit."""
        if field == "embeddings":
            return [_vector(row, self.dim) for row in self.embeddings]
        if field == "hits":
            return self.hits
        count = len(self.predictions)
        unsure, distances = self.unsure or [False] * count, self.distances or [None] * count
        each = zip(self.predictions, unsure, distances, strict=True)
        return [Predictions(row, unsure=doubt, distance=far) for row, doubt, far in each]


_Width = Annotated[int, msgspec.Meta(gt=0, le=65536)]


def _vector(row: bytes, width: int) -> npt.NDArray[np.float32]:
    """An embedding (D,). Raises ValueError for one of another length, or that is not finite."""
    if not row or len(row) != 4 * width:
        raise ValueError(f"an embedding of {len(row)} bytes for {width} numbers")
    vector = np.frombuffer(row, "<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("an embedding that is not finite")
    return vector


def _given(**options: object) -> dict[str, str]:
    return {name: str(value) for name, value in options.items() if value is not None}


def _path(kind: str, name: str, *rest: str) -> str:
    """The path of a gallery or head. Another text than a name could lead to another route."""
    try:
        return "/".join(("/v1", kind, msgspec.convert(name, Name), *rest))
    except msgspec.ValidationError as error:
        raise InvalidArgument(
            f"{short(name)} is not a name: use 1 to 64 of A-Z a-z 0-9 _ . - and begin with neither . nor -"
        ) from error


def _json(body: dict[str, Any]) -> dict[str, Any]:
    """httpx's arguments for a JSON body. Raises InvalidArgument for what JSON cannot hold."""
    try:
        content = msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"ids, labels and metadata must be texts and numbers ({error})") from error
    return {"content": content, "headers": {"content-type": "application/json"}}
