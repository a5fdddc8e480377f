"""The answers to requests that are refused: RFC 9457 problem details with a stable `code`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from leap_zoo import errors

logger = logging.getLogger("leap_zoo.serve")

MEDIA_TYPE = "application/problem+json"
OPENAI_PATH = "/v1/embeddings"


CODES: dict[str, tuple[int, str]] = {
    "missing_photo": (400, "The request holds no photo, or an empty one."),
    "several_photos": (400, "The route takes one photo, but the request has more."),
    "undecodable_image": (400, "The photo is truncated or broken."),
    "broken_form": (400, "The multipart form is invalid."),
    "broken_json": (400, "The body is not valid JSON."),
    "broken_base64": (400, "A photo is not valid base64."),
    "broken_data_uri": (400, "A data URI does not contain base64, as data:image/jpeg;base64,... does."),
    "client_left": (400, "The client closed the connection before the whole body arrived."),
    "missing_key": (401, "This server requires an API key."),
    "wrong_key": (401, "The API key is unknown."),
    "foreign_origin": (403, "A page of another site tried to change something here."),
    "unknown_path": (404, "Nothing is served at this path."),
    "unknown_file": (404, "No model of this server has this file."),
    "unknown_gallery": (404, "There is no gallery with this name."),
    "unknown_head": (404, "Neither the model nor a client has a head with this name."),
    "unknown_model": (404, "No model with this name is served."),
    "wrong_method": (405, "The path does not support that method."),
    "body_too_slow": (408, "The body did not arrive in time."),
    "head_of_another_model": (409, "The head was fitted for another model or another revision."),
    "gallery_full": (409, "The gallery is full."),
    "head_exists": (409, "A head with this name already exists."),
    "head_of_the_model": (409, "The model itself has a head with this name."),
    "head_too_large": (409, "The head would exceed the size limit."),
    "other_embeddings": (409, "The gallery holds embeddings of another model, revision or space."),
    "store_full": (409, "The limit of stored data is reached."),
    "too_many_galleries": (409, "The limit on galleries is reached."),
    "too_many_heads": (409, "The limit on heads is reached."),
    "answer_too_large": (413, "The answer would exceed this server's limit. Request less at once."),
    "body_too_large": (413, "The body exceeds this server's limit."),
    "image_too_large": (413, "The photo has too many bytes or pixels. Nothing was decoded."),
    "too_many_photos": (413, "The request has more photos than this server accepts."),
    "too_many_pixels": (413, "The photos of the request have too many pixels in total. Send fewer in one request."),
    "too_many_vectors": (413, "The request has no vectors, or more than this server accepts."),
    "not_an_image": (415, "The bytes are not a photo in a supported format."),
    "unsupported_encoding": (415, "A body with a Content-Encoding, such as gzip, is not supported."),
    "unsupported_content_type": (415, "A body with this Content-Type does not contain a photo."),
    "range_not_satisfiable": (416, "The range lies outside the file."),
    "unknown_host": (421, "The server does not answer for this host name."),
    "address_not_fetched": (422, "A URL was sent instead of a photo. The server never fetches URLs."),
    "image_is_text": (422, "The form's field for the photo is text, not a file."),
    "invalid_body": (422, "The JSON does not have the expected structure."),
    "invalid_classes": (422, "There are fewer than two classes, or a class has no readable photo."),
    "invalid_id": (422, "An id is empty, too long, repeated, or has characters that are not allowed."),
    "invalid_metadata": (422, "Metadata has a name, a value or a size that is not allowed."),
    "invalid_name": (422, "A name has characters other than letters, digits, `_`, `.` and `-`."),
    "invalid_option": (422, "An option is unknown or out of range."),
    "unexpected_field": (422, "The form has an unknown field."),
    "uneven_items": (422, "The number of ids or metadata differs from the number of photos."),
    "invalid_vector": (422, "A vector is zero or not finite, or its length differs from the gallery's."),
    "unknown_space": (422, "The space must be `student` or `teacher`."),
    "gallery_damaged": (500, "The gallery's files are damaged. See the server's log."),
    "head_damaged": (500, "The head's file is damaged. See the server's log."),
    "internal_error": (500, "The server failed. See its log."),
    "busy": (503, "Too many photos are waiting already. Try again after Retry-After seconds."),
    "stopping": (503, "The server is shutting down."),
    "store_unavailable": (503, "The disk, or the server that stores galleries, has failed. Try again later."),
    "timed_out": (503, "The answer took too long. Try again after Retry-After seconds."),
}
"""Every code, with its status and meaning. The page at /docs lists them; the meaning of a code never changes."""


class Problem(BaseModel):
    """The body of every 4xx and 5xx answer (`application/problem+json`, RFC 9457)."""

    model_config = ConfigDict(extra="forbid")
    type: str = Field(description="Where this code is documented, relative to the server", examples=["/docs#busy"])
    title: str = Field(description="The code in words", examples=["Not an image"])
    status: int = Field(description="The HTTP status", ge=400, le=599, examples=[415])
    code: str = Field(description="Stable: programs may depend on it", examples=["not_an_image"])
    detail: str = Field(description="What is wrong and how to fix it, for people")
    index: int | None = Field(None, ge=0, description="Which photo of the request has the problem, counted from 0")
    error: dict[str, str | None] | None = Field(None, description="For OpenAI's clients: of /v1/embeddings")


class Refused(Exception):
    """A request that is answered with a problem instead of a result.

    `code` is one of CODES, which has the status. `detail` is sent to the client unchanged: it must say how to fix the
    request, and must not contain a local path. `index`: which photo of the request has the problem, counted from 0.
    """

    def __init__(
        self, code: str, detail: str, headers: Mapping[str, str] | None = None, *, index: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status, _ = CODES[code]
        self.code = code
        self.detail = detail
        self.headers = ({"retry-after": "5"} if self.status == 503 else {}) | dict(headers or {})
        self.index = index

    def response(self, path: str = "") -> Response:
        """The refusal as an HTTP answer. path: of the request; OpenAI's clients read `error`."""
        title = self.code.replace("_", " ").capitalize()
        body = Problem(
            type=f"/docs#{self.code}",
            title=title,
            status=self.status,
            code=self.code,
            detail=self.detail,
            index=self.index,
        )
        if path.endswith(OPENAI_PATH):
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
            body.error = {"message": self.detail, "type": kind, "param": None, "code": self.code}
        return Response(body.model_dump_json(exclude_none=True), self.status, self.headers, media_type=MEDIA_TYPE)


class BadPhoto(errors.ImageError):
    """The photo `index` (from 0) of a request is bad; `error` says what is wrong with it."""

    def __init__(self, index: int, error: errors.ImageError) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error


_CODES: dict[type[Exception], str] = {
    errors.NotAnImage: "not_an_image",
    errors.UndecodableImage: "undecodable_image",
    errors.ImageTooLarge: "image_too_large",
    errors.UnknownModel: "unknown_model",
    errors.UnknownHead: "unknown_head",
    errors.InvalidHead: "head_of_another_model",  # `serve.heads` reports a damaged file
    errors.UnknownSpace: "unknown_space",
    errors.InvalidArgument: "invalid_option",
}

_HTTP = {
    400: ("broken_json", "The body is not valid JSON. Check how it was written."),
    404: ("unknown_path", "Nothing is served at this path. GET / lists what is."),
    405: ("wrong_method", "This path does not support that method. GET / lists the methods."),
}


def refusal_of(error: Exception) -> Refused:
    """The answer to `error`. An error that a client cannot cause is logged, and its text is not sent."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ClientDisconnect):  # an answer that nobody reads
        return Refused("client_left", "The connection was closed before the whole body arrived.")
    if isinstance(error, HTTPException):  # of Starlette's router, and of FastAPI for a body that cannot be read
        return Refused(*_HTTP.get(error.status_code, _HTTP[404]), error.headers)
    cause = error.error if isinstance(error, BadPhoto) else error
    known = _CODES.get(type(cause))
    if known is None:
        logger.error("a request failed on the server's side", exc_info=error)
        return internal_error()
    return Refused(known, sentence(str(cause)), index=error.index if isinstance(error, BadPhoto) else None)


def invalid_options(found: Sequence[Any], known: Iterable[str]) -> Refused:
    """The refusal of options that pydantic found invalid; known: the names of all options."""
    return Refused("invalid_option", " ".join(_explained(one, known) for one in found))


def internal_error() -> Refused:
    """The answer to a request that failed because of the server."""
    return Refused("internal_error", "The server failed to answer this request. See its log.")


def sentence(message: str) -> str:
    """The message of a LeapZooError as a sentence."""
    return message[:1].upper() + message[1:].rstrip(".") + "."


def _explained(error: Any, known: Iterable[str]) -> str:
    name = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        return f"Unknown option {errors.short(name)}{errors.nearest(name, known)}."
    if error["type"] == "missing":
        return f"The option {name} is missing. Add it to the query, as ?{name}=..."
    return f"{name}: {error['msg']}."
