"""Our own Prometheus metrics, read at /metrics beside BentoML's.

BentoML runs `prometheus_client` in its multiprocess mode: every metric is a file in a folder, and /metrics adds them
up. A metric of ours that is made in the worker is therefore among them. The labels are bounded: a route is a template
of ours or `unmatched`, whatever a client asks for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from serve.metrics_folder import forget_dead_workers

if TYPE_CHECKING:
    from serve.engine import Engine

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Make one per process, in a worker: `prometheus_client` decides at its import where the figures go."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        forget_dead_workers()
        # A registry of our own: in multiprocess mode /metrics reads the folder, and a second Metrics is no conflict.
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "leap_zoo_requests",
            "Requests that were answered",
            ["route", "method", "status_class"],
            registry=registry,
        )
        self._seconds = Histogram(
            "leap_zoo_request_seconds",
            "From the request's head to the end of the answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "leap_zoo_stage_seconds",
            "What a request with photos spends in each stage: queue, decode, inference",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._inside = Gauge(
            "leap_zoo_in_flight", "Requests being answered now", registry=registry, multiprocess_mode="livesum"
        )
        self._models = Gauge(
            "leap_zoo_models_loaded", "Models held in memory", registry=registry, multiprocess_mode="livesum"
        )
        self._answered = lru_cache(4096)(self._answered_by_labels)

    def served(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request. `route` must be one of finitely many."""
        counter, histogram = self._answered(route, method if method in METHODS else "other", status // 100)
        counter.inc()
        histogram.observe(seconds)

    def watch(self, engine: Engine) -> None:
        """Count what `engine` does from now on."""

        def observe(queue_ms: float, decode_ms: float, inference_ms: float) -> None:
            self.stages(queue_ms=queue_ms, decode_ms=decode_ms, inference_ms=inference_ms)
            self.models_loaded(len(engine.models.all()))

        engine.observe = observe
        self.models_loaded(len(engine.models.all()))

    def stages(self, *, queue_ms: float, decode_ms: float, inference_ms: float) -> None:
        """Count where a request with photos has spent its time."""
        for stage, milliseconds in (("queue", queue_ms), ("decode", decode_ms), ("inference", inference_ms)):
            self._stages.labels(stage).observe(milliseconds / 1000)

    def models_loaded(self, number: int) -> None:
        """Say how many models are held."""
        self._models.set(number)

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request as being answered."""
        self._inside.inc()
        try:
            yield
        finally:
            self._inside.dec()

    def _answered_by_labels(self, route: str, method: str, status_class: int):  # type: ignore[no-untyped-def]
        return self._requests.labels(route, method, f"{status_class}xx"), self._seconds.labels(route)
