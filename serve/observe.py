"""Metrics for Prometheus, one line in the log per request, and spans for OpenTelemetry.

The log has no query, file name, body, client address or key. Labels of metrics are bounded: a route is one of the
service's templates or `unmatched`, whatever a client requests.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import logging.handlers
import os
import queue
import random
import re
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pythonjsonlogger.orjson import OrjsonFormatter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leap_zoo.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
LEFT = 499  # nginx's code: the client disconnected before the answer began
# The most log lines that wait for a slow reader; further ones are dropped, so that requests do not wait.
MAX_LINES = 10_000
# The id of the request that is being answered; tasks and threads that are started for it inherit it.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
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

    def served(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request. `route` must be one of a finite set."""
        self._requests.labels(route, method if method in METHODS else "other", f"{status // 100}xx").inc()
        self._seconds.labels(route).observe(seconds)

    def inside(self, change: int) -> None:
        """Count a request that has arrived (1) or is answered (-1)."""
        self._count += change
        self._inside.set(self._count)

    def stages(self, queue_ms: float, decode_ms: float, inference_ms: float) -> None:
        """Record how long a request with photos spent in each stage."""
        for stage, milliseconds in zip(self._stages, (queue_ms, decode_ms, inference_ms), strict=True):
            stage.observe(milliseconds / 1000)


def make_request_id(offered: bytes | None) -> str:
    """The id that a client or a proxy sent if it is valid, otherwise a new one."""
    if offered is not None and _SANE_ID.match(offered):
        return offered.decode("ascii")
    return f"{random.getrandbits(64):016x}"  # no secret: the system's generator would take a twentieth of a request


def log_served(method: str, route: str, status: int, **fields: object) -> None:
    """Log an answered request; as a warning if the server failed. `route` is the template, never the path."""
    level = logging.WARNING if status >= 500 and status != 503 else logging.INFO
    fields |= {"method": method, "route": route, "status": status}
    access.log(level, "%s %s %d", method, route, status, extra=fields)


def configure_log() -> None:
    """Send the loggers `leap_zoo.*` to stderr as JSON, from a thread, so that a slow reader does not delay requests.

    BentoML and uvicorn write lines of their own, which are text, when they start and stop.
    """
    lines: queue.Queue[Any] = queue.Queue(MAX_LINES)
    handler, stream = Queued(lines), logging.StreamHandler()
    stream.setFormatter(JsonLines())
    listener = Gathering(lines, stream)
    listener.start()
    atexit.register(listener.stop)
    logger = logging.getLogger("leap_zoo")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class Queued(logging.handlers.QueueHandler):
    """Puts records into a queue, whose reader makes lines of them; a full queue drops them."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """See QueueHandler. The reader runs in another context, which does not have the request's id."""
        record.request_id = request_id.get()
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """See QueueHandler."""
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


class Gathering(logging.handlers.QueueListener):
    """Writes the lines of a moment together: a thread that wakes up for each would slow down each request."""

    seconds = 0.1  # how long a line may wait; 0 when the process stops

    def dequeue(self, block: bool) -> logging.LogRecord:
        """See QueueListener."""
        first = self.queue.empty()  # type: ignore[attr-defined]
        record = super().dequeue(block)
        if first:
            time.sleep(self.seconds)
        return record


class JsonLines(OrjsonFormatter):
    """Writes a record as one line of JSON: its message, the request's id, and the fields of an answered request.

    Line breaks in a message are escaped, so that no client can forge a line.
    """

    def __init__(self) -> None:
        names = {"levelname": "level", "name": "logger", "exc_info": "traceback"}
        super().__init__(["levelname", "name", "message"], rename_fields=names, timestamp="time")

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """See OrjsonFormatter."""
        fields = log_data | {"level": log_data["level"].lower()}
        return {name: value for name, value in fields.items() if value is not None}


def otlp_exporter() -> SpanExporter:
    """Sends spans by OTLP over HTTP. Raises MissingExtra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingExtra("LEAP_ZOO_SERVE_OTEL needs the exporter: pip install 'leap-zoo[otel]'") from error
    exporter: SpanExporter = OTLPSpanExporter()
    return exporter


def traced(app: ASGIApp, exporter: SpanExporter) -> ASGIApp:
    """`app` with a span for each request, sent to `exporter`."""
    from opentelemetry import trace
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        async def named_send(message: Message) -> None:
            route = getattr(scope.get("route"), "path", None)
            if message["type"] == "http.response.start" and route is not None:  # by now the router has found it
                span = trace.get_current_span()
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
            await send(message)

        await app(scope, receive, named_send)

    service = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "leap-zoo"}
    provider = TracerProvider(resource=Resource.create(service))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    middleware: ASGIApp = OpenTelemetryMiddleware(
        named,
        excluded_urls="livez,readyz,healthz,metrics",
        default_span_details=lambda scope: (scope["method"], {}),
        exclude_spans=["receive", "send"],
        tracer_provider=provider,
    )
    return middleware
