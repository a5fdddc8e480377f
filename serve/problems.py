"""What a client is told when a request is refused: RFC 9457 problem details with a stable `code`."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel, Field
from starlette.responses import Response


class Problem(BaseModel):
    """The body of every 4xx and 5xx answer (`application/problem+json`)."""

    status: int = Field(examples=[415])
    title: str = Field(description="The reason phrase of the status", examples=["Unsupported Media Type"])
    code: str = Field(description="Stable: programs may depend on it", examples=["not_an_image"])
    detail: str = Field(description="What is wrong and how to mend it, for people")


class Refused(Exception):
    """A request that is answered with a problem instead of a result.

    `detail` reaches the client as it is: it must say how to mend the request, and hold no path of this machine.
    """

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The refusal as an HTTP answer."""
        title = HTTPStatus(self.status).phrase
        body = Problem(status=self.status, title=title, code=self.code, detail=self.detail).model_dump_json()
        return Response(body, self.status, self.headers, media_type="application/problem+json")
