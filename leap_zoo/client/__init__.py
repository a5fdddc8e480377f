"""A running service with the methods of `Model`, and its galleries and heads.

    from leap_zoo.client import Client

    with Client("http://localhost:3000") as client:
        client.classify("photo.jpg", top=3)  # [Prediction(label, score, index), ...]
        client.embed(["a.jpg", "b.jpg"])  # float32 (2, D), L2-normalised

Not imported by `import leap_zoo`. httpx is imported by the first Client.
"""

from __future__ import annotations

import base64
from typing import Any, overload
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.client.connection import Connection
from leap_zoo.client.photos import are_many, body_of, photo_bytes, requests_of, which
from leap_zoo.errors import ImageError, InvalidArgument, ServiceFailed, short
from leap_zoo.gallery import Hit, Where
from leap_zoo.model import Batch, Many, OneFile, Prediction, Space, output_of
from leap_zoo.preprocess import ImageSource

__all__ = ["Client"]

TIMEOUT = 30.0
ATTEMPTS = 5
_MAX_DELETED = 100  # ids in one request's query


class _Classified(msgspec.Struct):
    predictions: list[list[Prediction]]


class _Embedded(msgspec.Struct):
    embeddings: list[bytes]  # msgspec reads base64
    dim: int


class _Found(msgspec.Struct):
    hits: list[list[Hit]]


class _Galleries(msgspec.Struct):
    galleries: list[dict[str, Any]]


class _Heads(msgspec.Struct):
    heads: list[dict[str, Any]]


class _Models(msgspec.Struct):
    data: list[dict[str, Any]]


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
    ) -> list[Prediction]: ...
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
    ) -> list[Prediction] | Batch: ...
    def classify(
        self,
        images: ImageSource | Many,
        *,
        top: int = 5,
        head: str | None = None,
        model: str | None = None,
        precision: str | None = None,
    ) -> list[Prediction] | Batch:
        """The `top` most probable classes, best first: a list for one image, a list of lists for many.

        head: one of the model's own, or one made with `fit`. model, precision: default: what the service serves.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InvalidArgument(f"top must be a whole number of at least 1, not {short(top)}")
        query = _given(top=top, head=head, model=model, precision=precision)
        answers = self._photos(_Classified, "/v1/classify", query, images)
        predictions = [row for answer in answers for row in answer.predictions]
        return predictions if are_many(images) else self._only(predictions)

    def embed(
        self,
        images: ImageSource | Many,
        *,
        space: Space = "student",
        model: str | None = None,
        precision: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """L2-normalised embeddings, float32: (D,) for one image, (N, D) for many, in the space as of `Model.embed`."""
        output_of(space)
        query = _given(space=space, encoding="base64", model=model, precision=precision)
        answers = self._photos(_Embedded, "/v1/embed", query, images)
        rows = [self._row(row, answer.dim) for answer in answers for row in answer.embeddings]
        if not are_many(images):
            only: npt.NDArray[np.float32] = self._only(rows)
            return only
        return np.stack(rows) if rows else np.empty((0, self._width(space, model)), np.float32)

    def search(
        self, images: ImageSource | Many, gallery: str, *, k: int = 10, where: Where | None = None
    ) -> list[Hit] | list[list[Hit]]:
        """The k nearest items of a gallery, nearest first: a list for one image, a list of lists for many."""
        query = _given(gallery=gallery, k=k, where=None if where is None else msgspec.json.encode(where).decode())
        hits = [row for answer in self._photos(_Found, "/v1/search", query, images) for row in answer.hits]
        return hits if are_many(images) else self._only(hits)

    def galleries(self) -> list[dict[str, Any]]:
        """The galleries, by name: name, model, revision, space, dim, items, bytes."""
        return self._connection.ask(_Galleries, "GET", "/v1/gallery").galleries

    def add(
        self,
        gallery: str,
        ids: list[str],
        images: list[Any] | tuple[Any, ...],
        metadata: list[dict[str, Any]] | None = None,
        *,
        space: Space | None = None,
    ) -> None:
        """Add photos to a gallery, or replace those of the same ids; makes the gallery when there is none."""
        if len(ids) != len(images) or (metadata is not None and len(metadata) != len(images)):
            raise InvalidArgument(f"{len(images)} images need as many ids, and as many metadata or none")
        for first, photos in requests_of(images):
            body: dict[str, Any] = {
                "images": [base64.b64encode(photo).decode() for photo in photos],
                "ids": ids[first : first + len(photos)],
            }
            if metadata is not None:
                body["metadata"] = metadata[first : first + len(photos)]
            self._connection.send("POST", f"/v1/gallery/{quote(gallery, '')}", params=_given(space=space), json=body)

    def delete(self, gallery: str, ids: list[str] | None = None) -> None:
        """Take items out of a gallery; without ids, the gallery itself."""
        path = f"/v1/gallery/{quote(gallery, '')}"
        if ids is None:
            self._connection.send("DELETE", path)
        for start in range(0, len(ids or []), _MAX_DELETED):
            some = (ids or [])[start : start + _MAX_DELETED]
            self._connection.send("DELETE", f"{path}/items", params={"id": some})

    def heads(self) -> list[dict[str, Any]]:
        """The heads that clients have made, by name: name, labels, photos, kind, model, validation, ..."""
        return self._connection.ask(_Heads, "GET", "/v1/heads").heads

    def fit(
        self, name: str, classes: dict[str, list[Any]], *, space: Space = "student", replace: bool = False
    ) -> dict[str, Any]:
        """Make a head from labelled images, for `classify(..., head=name)`. Returns what the service says of it."""
        files = [
            (label, ("photo", photo_bytes(image), "application/octet-stream"))
            for label, images in classes.items()
            for image in images
        ]
        query = {"space": space, "replace": "true" if replace else "false"}
        path = f"/v1/heads/{quote(name, '')}"
        return self._connection.ask(dict[str, Any], "POST", path, params=query, files=files)

    def delete_head(self, name: str) -> None:
        """Take a head away."""
        self._connection.send("DELETE", f"/v1/heads/{quote(name, '')}")

    def models(self) -> list[dict[str, Any]]:
        """What may be asked for, the default model first: id, revision, heads, embedding_dims, artifacts, ..."""
        return self._connection.ask(_Models, "GET", "/v1/models").data

    def _photos(self, kind: type[Any], path: str, query: dict[str, str], images: ImageSource | Many) -> list[Any]:
        """The answers to the requests that the photos take, one photo's or several."""
        if not are_many(images):
            return [self._connection.ask(kind, "POST", path, params=query, **body_of([photo_bytes(images)]))]  # type: ignore[arg-type]
        answers = []
        for first, photos in requests_of(images):  # type: ignore[arg-type]
            try:
                answers.append(self._connection.ask(kind, "POST", path, params=query, **body_of(photos)))
            except ImageError as error:
                number = first + (getattr(error, "index", None) or 0)
                raise type(error)(which(number, len(images), error)) from error  # type: ignore[arg-type]
        return answers

    def _row(self, row: bytes, dim: int) -> npt.NDArray[np.float32]:
        if len(row) != 4 * dim:
            raise ServiceFailed(f"{self._connection.name} answers an embedding of {len(row)} bytes for {dim} numbers")
        return np.frombuffer(row, "<f4").astype(np.float32)

    def _only(self, answers: list[Any]) -> Any:
        if len(answers) != 1:
            raise ServiceFailed(f"{self._connection.name} answers for {len(answers)} photos, one was sent")
        return answers[0]

    def _width(self, space: str, model: str | None) -> int:
        known = self.models()
        info = next((one for one in known if one["id"] == model), known[0])
        return int(info["embedding_dims"][space])


def _given(**options: object) -> dict[str, str]:
    return {name: str(value) for name, value in options.items() if value is not None}
