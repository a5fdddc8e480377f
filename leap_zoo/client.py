"""A client for a running service: the methods of `Model`, and the service's galleries and heads.

    from leap_zoo.client import Client

    with Client("http://localhost:3000") as client:
        client.classify("photo.jpg", top=3)  # [Prediction(label, score, index), ...]
        client.embed(["a.jpg", "b.jpg"])  # float32 (2, D), L2-normalized

`import leap_zoo` does not import this module.
"""

from __future__ import annotations

import base64
import math
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo import errors
from leap_zoo.card import Name
from leap_zoo.errors import (
    InvalidArgument,
    LeapZooError,
    ServiceFailed,
    ServiceRefused,
    masked,
    plain,
    short,
    whole_number,
)
from leap_zoo.files import saved_file
from leap_zoo.gallery import Hit, Where
from leap_zoo.heads import MAX_HEAD_BYTES, CustomHead, decode_head
from leap_zoo.model import Images, Prediction, Predictions, Space, output_of
from leap_zoo.preprocess import ImageSource, Limits, image_bytes, many_images, which_image
from leap_zoo.web import Again, Patience, Unwanted, open_http, read_body, retry_after, split_login

__all__ = ["Client"]

TIMEOUT = 30.0
ATTEMPTS = 5
LONGEST_WAIT = 10.0  # seconds between two attempts, even if Retry-After asks for more
LIMITS = Limits(bytes=20 * 2**20)  # bytes of one photo: the service's default limit
MAX_PHOTOS, MAX_REQUEST = 32, 32 * 2**20  # photos and bytes in one request: the service's default limits
MAX_IDS, MAX_QUERY = 100, 4096  # ids, and their characters, in one URL: proxies accept about 8 KiB
MAX_ANSWER = 64 * 2**20  # bytes: more than 32 photos with 100 hits each and full metadata
MAX_EXPORT = 8 * 2**30  # bytes: twice the service's limit for galleries
MAX_PROBLEM = 64 * 1024
MAX_DETAIL = 1000  # characters of the service's own message that we repeat in an error

_KEY = re.compile(r"\A[!-~]{1,512}\Z")
_ERRORS: dict[str, type[LeapZooError]] = {
    "not_an_image": errors.NotAnImage,
    "undecodable_image": errors.UndecodableImage,
    "image_too_large": errors.ImageTooLarge,
    "missing_photo": errors.NotAnImage,
    "unknown_model": errors.UnknownModel,
    "unknown_head": errors.UnknownHead,
    "unknown_space": errors.UnknownSpace,
    "invalid_option": InvalidArgument,
}

Answer = TypeVar("Answer")


class Client:
    """A service at `url`. Thread-safe. Close it after use, or use it as a context manager.

    Images are what `Model` takes; a long list is sent in several requests. Files are sent unchanged, arrays and PIL
    images as PNG, so the service gives the same answers as a `Model` loaded from the same file.

    key: an API key, if the service requires one. timeout: seconds for each step of a request. attempts: how many times
    to ask a busy service (503 with Retry-After).
    All methods raise ServiceFailed when the service stays busy, fails or cannot be reached; ServiceRefused when it
    rejects the request; and whatever the same method of `Model` raises.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = TIMEOUT, *, attempts: int = ATTEMPTS) -> None:
        """Raises InvalidArgument. Does not contact the service."""
        try:
            base, login = split_login(httpx.URL(url))
        except (httpx.InvalidURL, UnicodeError, TypeError):  # its text may contain part of a password
            base, login = httpx.URL(), None
        if base.scheme not in ("http", "https") or not base.host:
            raise InvalidArgument(f"{short(url)} is not a service's address: give http://HOST:PORT")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise InvalidArgument(f"timeout must be a number of seconds above 0, not {short(timeout)}")
        if key and not (isinstance(key, str) and _KEY.match(key)):
            raise InvalidArgument("the key contains invalid characters: remove spaces and line breaks")
        if key and login:
            raise InvalidArgument("give either a key or a user and password in the URL, not both")
        self._attempts = whole_number(attempts, "attempts")
        self._name = str(base).rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = open_http(base_url=base, auth=login, timeout=timeout, headers=headers)

    def __repr__(self) -> str:
        return f"<Client {self._name}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def classify(self, images: Images, *, top: int = 5, head: str | None = None, model: str | None = None) -> list[Any]:
        """The `top` most probable classes, best first: Predictions for one image, a list of them for many.

        head: one of the model's own, or one made with `fit`. model: the service's default if not given.
        """
        query = _given(top=whole_number(top, "top"), head=head, model=model)
        predictions, many = self._photos("predictions", "/v1/classify", query, images)
        return predictions if many else predictions[0]

    def embed(self, images: Images, *, space: Space = "student", model: str | None = None) -> npt.NDArray[np.float32]:
        """L2-normalized embeddings, float32: (D,) for one image, (N, D) for many, (0, 0) for an empty list.

        space: as in `Model.embed`.
        """
        output_of(space)
        query = _given(space=space, encoding="base64", model=model)
        rows, many = self._photos("embeddings", "/v1/embed", query, images)
        if not many:
            return rows[0]  # type: ignore[no-any-return]
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def search(self, images: Images, gallery: str, *, k: int = 10, where: Where | None = None) -> list[Any]:
        """The k nearest items of a gallery, nearest first: list[Hit] for one image, a list of such lists for many."""
        conditions = None if where is None else _json(dict(where))["content"].decode()
        hits, many = self._photos("hits", _path("galleries", gallery, "search"), _given(k=k, where=conditions), images)
        return hits if many else hits[0]

    def galleries(self) -> list[dict[str, Any]]:
        """The galleries, sorted by name: name, model, revision, space, dim, items, bytes."""
        return self._listed("/v1/galleries", "galleries")

    def add(
        self,
        gallery: str,
        ids: list[str],
        images: list[Any] | tuple[Any, ...],
        metadata: list[dict[str, Any]] | None = None,
        *,
        space: Space | None = None,
    ) -> None:
        """Add photos to a gallery, or replace the ones with the same ids; create the gallery if it does not exist.

        Many photos take several requests. If one fails, the photos of the earlier requests have been added.
        """
        if not isinstance(images, (list, tuple)) or isinstance(ids, str):
            raise InvalidArgument("add takes a list of ids and a list of the same number of images")
        if len(ids) != len(images) or (metadata is not None and len(metadata) != len(images)):
            raise InvalidArgument(f"{len(images)} images need the same number of ids, and of metadata if given")
        path, query = _path("galleries", gallery, "items"), _given(create="true", space=space)

        def send(first: int, photos: list[bytes]) -> None:
            part = slice(first, first + len(photos))
            body = {"images": _base64(photos), "ids": ids[part]}
            self._send("POST", path, params=query, **_json(body | ({"metadata": metadata[part]} if metadata else {})))

        _in_requests(images, send)

    def delete(self, gallery: str, ids: list[str] | None = None) -> None:
        """Delete items from a gallery; unknown ids are ignored. Without ids, delete the gallery itself."""
        if isinstance(ids, str) or not all(isinstance(one, str) for one in ids or []):
            raise InvalidArgument("delete takes a list of ids, which are strings")
        if ids is None:
            self._send("DELETE", _path("galleries", gallery))
            return
        for some in _batched(ids, lambda one: len(quote(one, "")) + len("&id="), MAX_IDS, MAX_QUERY):
            self._send("DELETE", _path("galleries", gallery, "items"), params={"id": some})

    def export(self, gallery: str, path: str | os.PathLike[str]) -> None:
        """Write a gallery to `path` as npz: ids, embeddings, metadata (uint8: a line of JSON per item), model, ...

        An existing file is replaced at the end; an error leaves it unchanged.
        """
        source = _path("galleries", gallery, "export")
        with saved_file(path) as file:
            self._receive(file.write, "GET", source, limit=MAX_EXPORT)

    def heads(self) -> list[dict[str, Any]]:
        """The heads that clients have made, sorted by name: name, labels, photos, kind, model, validation, ..."""
        return self._listed("/v1/heads", "heads")

    def head(self, name: str) -> CustomHead:
        """Fetch a head that a client has made, to use with `Model.classify` on this machine or to `save`."""
        return decode_head(self._send("GET", _path("heads", name, "file"), limit=MAX_HEAD_BYTES))

    def fit(
        self, name: str, classes: dict[str, list[Any]], *, space: Space = "student", replace: bool = False
    ) -> dict[str, Any]:
        """Make a head from labeled images, for `classify(..., head=name)`. Returns the service's
        description of it.

        All images are sent in one request. Images that the service cannot read are left out and listed in `skipped`.
        """
        output_of(space)
        path, query = _path("heads", name), {"space": space, "replace": "true" if replace else "false"}
        if not isinstance(classes, Mapping) or not all(
            isinstance(photos, (list, tuple)) for photos in classes.values()
        ):
            raise InvalidArgument('classes must map labels to lists of images: {"cat": ["a.jpg"], "dog": ["b.jpg"]}')
        read = {label: _base64(_each_bytes(photos, f"class {short(label)}, ")) for label, photos in classes.items()}
        return self._ask(dict[str, Any], "POST", path, params=query, repeatable=False, **_json({"classes": read}))

    def delete_head(self, name: str) -> None:
        """Delete a head."""
        self._send("DELETE", _path("heads", name))

    def models(self) -> list[dict[str, Any]]:
        """The models that can be used, the default one first: id, revision, heads, embedding_dims, file, ..."""
        return self._listed("/v1/models", "data")

    def _listed(self, path: str, field: str) -> list[dict[str, Any]]:
        answer = self._ask(dict[str, Any], "GET", path)
        try:
            return msgspec.convert(answer.get(field), list[dict[str, Any]])
        except msgspec.ValidationError as error:
            raise self._strange(f"{field}: {error}", path) from error

    def _photos(self, field: str, path: str, query: dict[str, str], images: Images) -> tuple[list[Any], bool]:
        """One row per photo, over as many requests as they need; and whether many photos were given."""
        rows: list[Any] = []
        answerers = set()

        def send(_: int, photos: list[bytes]) -> None:
            answer = self._ask(_Answer, "POST", path, params=query, **_body(photos))
            answerers.add((answer.model, answer.revision, answer.dim))
            if len(answerers) > 1:
                raise self._strange("the model or revision changed between requests", path)
            try:
                found = answer.rows(field)
                if len(found) != len(photos):
                    raise ValueError(f"{len(found)} answers for {len(photos)} photos")
            except ValueError as error:
                raise self._strange(str(error), path) from error
            rows.extend(found)

        many = many_images(images)
        if many is None:
            send(0, [image_bytes(images, LIMITS)])  # type: ignore[arg-type]
        else:
            _in_requests(many, send)
        return rows, many is not None

    def _ask(self, kind: type[Answer], method: str, path: str, **options: Any) -> Answer:
        body = self._send(method, path, **options)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise self._strange(short(error, 200), path) from error

    def _send(self, method: str, path: str, *, limit: int = MAX_ANSWER, **options: Any) -> bytes:
        body = bytearray()
        self._receive(body.extend, method, path, limit=limit, **options)
        return bytes(body)

    def _receive(
        self,
        write: Callable[[bytes], object],
        method: str,
        path: str,
        *,
        limit: int,
        repeatable: bool = True,
        **options: Any,
    ) -> None:
        """Pass an answer's body, at most `limit` bytes, to `write`, piece by piece.

        A busy service is asked again, up to `attempts` times; one that gave up on a request only if the request is
        `repeatable`. Once writing has begun, the request is not repeated.
        """
        for attempt in count(1):
            with self._asking(method, path, options) as response:
                if response.is_success:
                    for piece in read_body(response, Patience(), limit):
                        write(piece)
                    return
                problem = _problem(response)
            after = retry_after(response.headers.get("retry-after"))
            worth = response.status_code in (429, 503) and (repeatable or problem.code != "timed_out")
            if attempt == self._attempts or after is None or not worth:
                raise self._error(response, problem, attempt)
            time.sleep(min(max(after, 0.1 * 2**attempt) * random.uniform(1, 1.5), LONGEST_WAIT))

    @contextmanager
    def _asking(self, method: str, path: str, options: dict[str, Any]) -> Iterator[httpx.Response]:
        """The answer to one request, before its body is read; httpx's errors become ours."""
        if self._http.is_closed:
            raise InvalidArgument("the client is closed: create a new one")
        try:
            with self._http.stream(method, path, **options) as response:
                yield response
        except Unwanted as error:
            raise self._strange(f"it {error}", path) from error
        except Again as error:
            raise ServiceFailed(f"{self._name} sends its answer too slowly ({error}): try again later") from error
        except httpx.TimeoutException as error:
            raise ServiceFailed(
                f"{self._name} did not answer in time: try again later, send fewer photos, or give a longer timeout"
            ) from error
        except httpx.HTTPError as error:
            raise ServiceFailed(
                f"{self._name} cannot be reached ({masked(str(error)) or type(error).__name__}): check the address, "
                "and that the service is running"
            ) from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InvalidArgument(
                f"the URL or an option is not valid in HTTP ({short(error, 200)}): correct it, or make it shorter"
            ) from error

    def _error(self, response: httpx.Response, problem: _Problem, attempts: int) -> LeapZooError:
        """The exception for an error response. `index`: the photo of the request that caused it, or None."""
        status = response.status_code
        detail = _one_line(problem.detail) or f"{self._name} answers {status}: is it a LEAP Zoo service?"
        if response.is_redirect:
            place = short(response.headers.get("location"), 200)
            detail = f"{self._name} redirects to another address: use {place}"
        if problem.code in _ERRORS:
            error = _ERRORS[problem.code](detail)
        elif status >= 500:
            times = f" ({attempts} times)" if attempts > 1 else ""
            error = ServiceFailed(f"{self._name}{times}: {detail}")
        else:
            error = ServiceRefused(detail, status, _one_line(problem.code))
        error.index = problem.index  # type: ignore[attr-defined]
        return error

    def _strange(self, what: str, path: str) -> ServiceFailed:
        return ServiceFailed(
            f"{self._name}{path} sent an unexpected answer ({what}): is it a LEAP Zoo service of this version?"
        )


class _Problem(msgspec.Struct):
    """The body of an error response. `index`: the photo of the request that caused it, from 0."""

    code: str = "http_error"
    detail: str = ""
    index: int | None = None


def _problem(response: httpx.Response) -> _Problem:
    try:
        return msgspec.json.decode(b"".join(read_body(response, Patience(), MAX_PROBLEM)), type=_Problem)
    except (Unwanted, Again, msgspec.DecodeError, UnicodeError, RecursionError):
        return _Problem()  # for example a proxy's error page: use the status alone


class _Answer(msgspec.Struct):
    """Which model answered, and one row per photo in the route's own field. Nothing in it is trusted."""

    model: str
    revision: str
    predictions: list[list[Prediction]] = []
    hits: list[list[Hit]] = []
    embeddings: list[bytes] = []  # msgspec reads base64
    dim: int = 0
    unsure: list[bool] = []  # these two belong to predictions; an older service sends neither
    distances: list[float | None] = []

    def rows(self, field: str) -> list[Any]:
        """One row per photo: Predictions, hits, or vectors (D,). Raises ValueError for malformed rows."""
        if field == "embeddings":
            return [_vector(row, self.dim) for row in self.embeddings]
        if field == "hits":
            return self.hits
        number = len(self.predictions)
        unsure, distances = self.unsure or [False] * number, self.distances or [None] * number
        each = zip(self.predictions, unsure, distances, strict=True)
        return [Predictions(row, unsure=doubt, distance=far) for row, doubt, far in each]


def _vector(row: bytes, width: int) -> npt.NDArray[np.float32]:
    """An embedding (D,). Raises ValueError if its length is wrong or a value is not finite."""
    if not row or len(row) != 4 * width:
        raise ValueError(f"an embedding of {len(row)} bytes for {width} numbers")
    vector = np.frombuffer(row, "<f4").astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("an embedding with values that are not finite")
    return vector


def _in_requests(images: Iterable[Any], send: Callable[[int, list[bytes]], None]) -> None:
    """Call `send(number of the first photo, photos)` for each request.

    Halve a request that the service finds too large.
    Raises as `image_bytes` and `send` do; an ImageError names the number of the photo among all of them.
    """

    def halves(first: int, photos: list[bytes]) -> None:
        try:
            send(first, photos)
        except ServiceRefused as refused:
            if refused.code not in ("too_many_photos", "body_too_large") or len(photos) == 1:
                raise
            middle = len(photos) // 2
            halves(first, photos[:middle])
            halves(first + middle, photos[middle:])
        except errors.ImageError as error:
            index = 0 if len(photos) == 1 else getattr(error, "index", None)
            if index is None or not 0 <= index < len(photos):
                raise
            raise type(error)(f"{which_image(first + index, images)}: {error}") from error

    first = 0
    for photos in _batched(_each_bytes(images), len, MAX_PHOTOS, MAX_REQUEST):
        halves(first, photos)
        first += len(photos)


def _each_bytes(images: Iterable[ImageSource], where: str = "") -> Iterator[bytes]:
    """The bytes of each photo. Raises as `image_bytes` does, with the photo's number."""
    for number, image in enumerate(images):
        try:
            yield image_bytes(image, LIMITS)
        except (errors.ImageError, InvalidArgument) as error:
            raise type(error)(f"{where}{which_image(number, images)}: {error}") from error


Thing = TypeVar("Thing")


def _batched(things: Iterable[Thing], size: Callable[[Thing], int], most: int, total: int) -> Iterator[list[Thing]]:
    """Batches of at most `most` things whose sizes add up to at most `total` (a larger one forms its own batch)."""
    some: list[Thing] = []
    held = 0
    for one in things:
        if some and (len(some) == most or held + size(one) > total):
            yield some
            some, held = [], 0
        some.append(one)
        held += size(one)
    if some:
        yield some


def _given(**options: object) -> dict[str, str]:
    return {name: str(value) for name, value in options.items() if value is not None}


def _path(kind: str, name: str, *rest: str) -> str:
    """The URL path of a gallery or head. The name is validated, because other text could lead to another route."""
    try:
        return "/".join(("/v1", kind, msgspec.convert(name, Name), *rest))
    except msgspec.ValidationError as error:
        raise InvalidArgument(
            f"{short(name)} is not a name: use 1 to 64 of A-Z a-z 0-9 _ . - and do not begin with . or -"
        ) from error


def _base64(photos: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(photo).decode() for photo in photos]


def _body(photos: list[bytes]) -> dict[str, Any]:
    """httpx's arguments for photos: a single one is the body itself, several are a form."""
    if len(photos) == 1:
        return {"content": photos[0], "headers": {"content-type": "application/octet-stream"}}
    return {"files": [("image", ("photo", photo, "application/octet-stream")) for photo in photos]}


def _json(body: dict[str, Any]) -> dict[str, Any]:
    """httpx's arguments for a JSON body. Raises InvalidArgument for values that JSON cannot express."""
    try:
        content = msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"ids, labels and metadata must be strings and numbers ({error})") from error
    return {"content": content, "headers": {"content-type": "application/json"}}


def _one_line(text: str) -> str:
    """The service's message, which may contain anything, as one line that is safe to print."""
    line = plain(" ".join(text[: 2 * MAX_DETAIL].split()))
    return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 3] + "..."
