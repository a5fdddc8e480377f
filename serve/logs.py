"""The log: one line for each thing that happened, as JSON or as text, with the id of the request it belongs to.

Nothing of a request is logged but what is listed in `Served`: no query, file name, body, address or key. BentoML and
uvicorn say in lines of their own, which are text, when they start and stop.
"""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal

import orjson

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered; tasks and threads that are started for it inherit it."""

access = logging.getLogger("leap_zoo.serve.access")

_SANE_ID = re.compile(rb"\A[A-Za-z0-9._-]{1,64}\Z")


@dataclass(frozen=True)
class Served:
    """One answered request. `route` is the template, never the path; `key` the name of the client's key."""

    method: str
    route: str
    status: int
    ms: float
    bytes_in: int
    bytes_out: int
    key: str | None = None


_FIELDS = [field.name for field in fields(Served)]


def make_request_id(offered: bytes | None) -> str:
    """The id that a client, or a proxy before us, has given, when it is one; a new one otherwise."""
    if offered is not None and _SANE_ID.match(offered):
        return offered.decode("ascii")
    return secrets.token_hex(8)


def log_served(served: Served) -> None:
    """Write the line of a request: a warning where the server failed."""
    level = logging.WARNING if served.status >= 500 and served.status != 503 else logging.INFO
    if access.isEnabledFor(level):
        access.log(level, "%s %s %d", served.method, served.route, served.status, extra={"served": served})


def configure(shape: Literal["json", "text"]) -> None:
    """Send the loggers `leap_zoo.*` to stderr in that shape. BentoML and uvicorn keep their own."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if shape == "json" else TextLines())
    logger = logging.getLogger("leap_zoo")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class JsonLines(logging.Formatter):
    """One JSON object a line. Line breaks in a message are escaped, so that no client can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (identity := request_id.get()) is not None:
            line["request_id"] = identity
        if isinstance(served := getattr(record, "served", None), Served):
            line |= {name: value for name in _FIELDS if (value := getattr(served, name)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class TextLines(logging.Formatter):
    """The same for people: time, level, message, and what is known of the request."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, and its traceback below."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        text = f"{time} {record.levelname.lower()} {_one_line(record.getMessage())}"
        if isinstance(served := getattr(record, "served", None), Served):
            text += f" {served.ms:.1f} ms, {served.bytes_in} bytes in, {served.bytes_out} out"
            text += f", key {served.key}" if served.key else ""
        if (identity := request_id.get()) is not None:
            text += f" [{identity}]"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")
