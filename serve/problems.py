"""The answers to requests that are refused: RFC 9457 problem details with a stable `code`."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
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
    code: (int(status), meaning)
    for status, codes in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
    for code, meaning in codes.items()
}
"""Every code, with its status and meaning."""


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
    errors.InvalidHead: "head_of_another_model",  # `serve.stores` reports a damaged file
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
