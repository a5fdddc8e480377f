"""Metrics for Prometheus, and one line in the log per request.

Only the fields of `Served` are logged: no query, file name, body, client address or key. Labels of metrics are bounded:
a route is one of the service's templates or `unmatched`, whatever a client requests.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import logging.handlers
import queue
import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pythonjsonlogger.orjson import OrjsonFormatter

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
LEFT = 499  # nginx's code: the client disconnected before the answer began
MAX_LINES = 10_000
"""The most log lines that wait for a slow reader; further ones are dropped, so that requests do not wait."""

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered; tasks and threads that are started for it inherit it."""

access = logging.getLogger("leap_zoo.serve.access")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SANE_ID = re.compile(rb"\A[A-Za-z0-9._-]{1,64}\Z")


class Metrics:
    """Create one per process, in a worker: BentoML runs `prometheus_client` in multiprocess mode, which chooses the
    files of its figures at import; /metrics adds up the files of all workers, including BentoML's own.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        # A separate registry: in multiprocess mode, /metrics reads the files, and a second Metrics does not conflict.
        self.registry = registry = CollectorRegistry()
        labels = ["route", "method", "status_class"]
        self._requests = Counter("leap_zoo_requests", "Requests that were answered", labels, registry=registry)
        self._seconds = Histogram(
            "leap_zoo_request_seconds",
            "From the request's head to the end of the answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        stages = Histogram(
            "leap_zoo_stage_seconds",
            "What a request with photos spends in each stage: queue, decode, inference",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = [stages.labels(stage) for stage in ("queue", "decode", "inference")]
        self._count = 0
        self._inside = Gauge(
            "leap_zoo_in_flight",
            "Requests being answered now",
            multiprocess_mode="livemostrecent",  # ignores workers that were killed
            registry=registry,
        )
        self._answered = lru_cache(4096)(self._answered_by_labels)

    def served(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request. `route` must be one of a finite set."""
        counter, histogram = self._answered(route, method if method in METHODS else "other", status // 100)
        counter.inc()
        histogram.observe(seconds)

    def inside(self, change: int) -> None:
        """Count a request that has arrived (1) or is answered (-1)."""
        self._count += change
        self._inside.set(self._count)

    def stages(self, queue_ms: float, decode_ms: float, inference_ms: float) -> None:
        """Record how long a request with photos spent in each stage."""
        for stage, milliseconds in zip(self._stages, (queue_ms, decode_ms, inference_ms), strict=True):
            stage.observe(milliseconds / 1000)

    def _answered_by_labels(self, route: str, method: str, status_class: int) -> tuple[Any, Any]:
        return self._requests.labels(route, method, f"{status_class}xx"), self._seconds.labels(route)


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


def make_request_id(offered: bytes | None) -> str:
    """The id that a client or a proxy sent if it is valid, otherwise a new one."""
    if offered is not None and _SANE_ID.match(offered):
        return offered.decode("ascii")
    return secrets.token_hex(8)


def log_served(served: Served) -> None:
    """Log a request; as a warning if the server failed."""
    level = logging.WARNING if served.status >= 500 and served.status != 503 else logging.INFO
    if access.isEnabledFor(level):
        access.log(level, "%s %s %d", served.method, served.route, served.status, extra=vars(served))


def configure_log() -> None:
    """Send the loggers `leap_zoo.*` to stderr as JSON, from a thread, so that a slow reader does not delay requests.

    BentoML and uvicorn write lines of their own, which are text, when they start and stop.
    """
    lines: queue.Queue[Any] = queue.Queue(MAX_LINES)
    handler = _Queued(lines)
    handler.setFormatter(JsonLines())
    listener = logging.handlers.QueueListener(lines, logging.StreamHandler())
    listener.start()
    atexit.register(listener.stop)
    logger = logging.getLogger("leap_zoo")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Queued(logging.handlers.QueueHandler):
    """Puts finished lines into a queue; a full queue drops them."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


class JsonLines(OrjsonFormatter):
    """Writes a record as one line of JSON: its message, the request's id, and the fields of an answered request.

    Line breaks in a message are escaped, so that no client can forge a line.
    """

    def __init__(self) -> None:
        names = {"levelname": "level", "name": "logger", "exc_info": "traceback"}
        super().__init__(["levelname", "name", "message"], rename_fields=names, timestamp="time")

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """See OrjsonFormatter."""
        fields = log_data | {"level": log_data["level"].lower(), "request_id": request_id.get()}
        return {name: value for name, value in fields.items() if value is not None}
