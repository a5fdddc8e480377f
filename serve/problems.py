"""What a client is told when a request is refused: RFC 9457 problem details with a stable `code`."""

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
    "several_photos": (400, "The route takes one photo, and there are more."),
    "undecodable_image": (400, "The photo is truncated or broken."),
    "broken_form": (400, "The multipart form cannot be read."),
    "broken_json": (400, "The body is not valid JSON."),
    "broken_base64": (400, "A photo is not in base64."),
    "broken_data_uri": (400, "A data URI is not in base64, as data:image/jpeg;base64,... is."),
    "client_left": (400, "The client closed the connection before its body had arrived."),
    "missing_key": (401, "This server wants an API key."),
    "wrong_key": (401, "The API key is not known here."),
    "foreign_origin": (403, "Another site's page tried to change something here."),
    "unknown_path": (404, "Nothing is served at this path."),
    "unknown_file": (404, "No model here has this file."),
    "unknown_gallery": (404, "There is no gallery of this name here."),
    "unknown_head": (404, "The model has no head of this name, and none was made here."),
    "unknown_model": (404, "No model of this name is served."),
    "wrong_method": (405, "The path does not take that method."),
    "body_too_slow": (408, "The body did not arrive in time."),
    "head_of_another_model": (409, "The head was fitted for another model, or another revision of it."),
    "gallery_full": (409, "The gallery is full."),
    "head_exists": (409, "There is a head of this name already."),
    "head_of_the_model": (409, "The model itself has a head of this name."),
    "head_too_large": (409, "The head would be larger than one may be."),
    "other_embeddings": (409, "The gallery holds embeddings of another model, revision or space."),
    "store_full": (409, "There is no room for more."),
    "too_many_galleries": (409, "The limit of galleries is reached."),
    "too_many_heads": (409, "The limit of heads is reached."),
    "answer_too_large": (413, "The answer would be larger than this server sends. Ask for less at once."),
    "body_too_large": (413, "The body is larger than this server takes."),
    "image_too_large": (413, "The photo has too many bytes or pixels. Nothing was decoded."),
    "too_many_photos": (413, "There are more photos in the request than this server takes."),
    "too_many_pixels": (413, "The photos of the request have too many pixels together. Send fewer in one request."),
    "too_many_vectors": (413, "There are no vectors in the request, or more than this server takes."),
    "not_an_image": (415, "The bytes are no photo in a format that is read."),
    "unsupported_encoding": (415, "A body with Content-Encoding, as gzip, is not read."),
    "unsupported_content_type": (415, "A body of this Content-Type holds no photo."),
    "range_not_satisfiable": (416, "The range lies outside the file."),
    "unknown_host": (421, "The server does not answer for this host name."),
    "address_not_fetched": (422, "An address was sent in place of a photo. None is ever fetched."),
    "image_is_text": (422, "The form's field for the photo is text, not a file."),
    "invalid_body": (422, "The JSON has another shape than expected."),
    "invalid_classes": (422, "There are fewer than two classes, or one without a photo that can be read."),
    "invalid_id": (422, "An id is empty, too long, there twice, or has characters that it must not have."),
    "invalid_metadata": (422, "Metadata have a name, a value or a size that cannot be kept."),
    "invalid_name": (422, "A name has other characters than letters, digits, `_`, `.` and `-`."),
    "invalid_option": (422, "An option is unknown, or out of its range."),
    "model_not_here": (422, "The model is served, but not in that precision."),
    "unexpected_field": (422, "The form has a field that is not read."),
    "uneven_items": (422, "There are more or fewer ids or metadata than photos."),
    "invalid_vector": (422, "A vector has another length than the gallery's, is 0, or is not finite."),
    "unknown_space": (422, "Embeddings live in the `student` or the `teacher` space."),
    "gallery_damaged": (500, "The gallery's files are damaged. The server's log says how."),
    "head_damaged": (500, "The head's file is damaged. The server's log says how."),
    "internal_error": (500, "The server failed. Its log says why."),
    "busy": (503, "Too many photos are waiting already. Try again after Retry-After seconds."),
    "stopping": (503, "The server has been told to stop."),
    "store_unavailable": (503, "The disk, or the server that keeps galleries, fails. Try again later."),
    "timed_out": (503, "The answer took too long. Try again after Retry-After seconds."),
}
"""Every code: its status, and what it means. The page at /docs lists them, and no code changes its meaning."""


class Problem(BaseModel):
    """The body of every 4xx and 5xx answer (`application/problem+json`, RFC 9457)."""

    model_config = ConfigDict(extra="forbid")
    type: str = Field(description="Where this code is explained, relative to the server", examples=["/docs#busy"])
    title: str = Field(description="The code in words", examples=["Not an image"])
    status: int = Field(description="The HTTP status", ge=400, le=599, examples=[415])
    code: str = Field(description="Stable: programs may depend on it", examples=["not_an_image"])
    detail: str = Field(description="What is wrong and how to fix it, for people")
    index: int | None = Field(None, ge=0, description="Which photo of the request it is about, counted from 0")
    error: dict[str, str | None] | None = Field(None, description="For OpenAI's clients: of /v1/embeddings")


class Refused(Exception):
    """A request that is answered with a problem instead of a result.

    `detail` reaches the client as it is: it must say how to fix the request, and hold no path of this machine.
    `index`: which photo of the request it is about, counted from 0.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        *,
        index: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.index = index

    def response(self, path: str = "") -> Response:
        """The refusal as an HTTP answer. path: that was asked for; OpenAI's clients read `error`."""
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


_CODES: dict[type[Exception], tuple[int, str]] = {
    errors.NotAnImage: (errors.NotAnImage.status, "not_an_image"),
    errors.UndecodableImage: (errors.UndecodableImage.status, "undecodable_image"),
    errors.ImageTooLarge: (errors.ImageTooLarge.status, "image_too_large"),
    errors.UnknownModel: (404, "unknown_model"),
    errors.UnknownHead: (404, "unknown_head"),
    errors.UnknownSpace: (422, "unknown_space"),
    errors.InvalidArgument: (422, "invalid_option"),
}

_ROUTING = {
    404: ("unknown_path", "Nothing is served at this path. GET / lists what is."),
    405: ("wrong_method", "This path does not take that method. GET / says how it is called."),
}


def refusal_of(error: Exception) -> Refused:
    """What a client is told about `error`. One that no client can cause is logged, and answered without its text."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, ClientDisconnect):  # an answer that nobody reads
        return Refused(400, "client_left", "The connection was closed before the body had arrived.")
    if isinstance(error, HTTPException):  # of Starlette's router
        code, detail = _ROUTING.get(error.status_code, ("http_error", error.detail))
        return Refused(error.status_code, code, detail, error.headers)
    cause = error.error if isinstance(error, BadPhoto) else error
    known = _CODES.get(type(cause))
    if known is None:
        logger.error("a request failed on the server's side", exc_info=error)
        return internal_error()
    return Refused(*known, sentence(str(cause)), index=error.index if isinstance(error, BadPhoto) else None)


def invalid_options(found: Sequence[Any], known: Iterable[str]) -> Refused:
    """The refusal of options in which pydantic has found errors; known: the names that there are."""
    return Refused(422, "invalid_option", " ".join(_explained(one, known) for one in found))


def internal_error() -> Refused:
    """The answer to a request that failed for no fault of its own."""
    return Refused(500, "internal_error", "The server failed at this request. Its log says why.")


def sentence(message: str) -> str:
    """A message of one of our errors, as a sentence."""
    return message[:1].upper() + message[1:].rstrip(".") + "."


def _explained(error: Any, known: Iterable[str]) -> str:
    name = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        return f"Unknown option {errors.short(name)}{errors.nearest(name, known)}."
    if error["type"] == "missing":
        return f"The option {name} is missing. Add it to the query, as ?{name}=..."
    return f"{name}: {error['msg']}."
