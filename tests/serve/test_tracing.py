"""Spans: one for each request that the gate lets in, named after its route, in the client's trace."""

from __future__ import annotations

import importlib.util

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

pytest.importorskip("opentelemetry.instrumentation.asgi", reason="needs the extra: pip install leap-zoo[serve]")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from leap_zoo.errors import MissingExtra
from serve.engine import Engine
from serve.middleware import Gate
from serve.observe import Metrics, otlp_exporter, traced
from serve.settings import ServeSettings
from serve.stores import Stores

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What was exported; at once, not in batches."""
    from opentelemetry.sdk.trace import export

    monkeypatch.setattr(export, "BatchSpanProcessor", export.SimpleSpanProcessor)
    return InMemorySpanExporter()


def test_span__is_named_after_its_route_and_continues_the_trace(
    engine: Engine, stores: Stores, spans: InMemorySpanExporter
) -> None:
    from serve.app import make_app

    settings = ServeSettings()
    app = traced(make_app(engine, stores, settings), spans)
    client = TestClient(Gate(FastAPI(), app, settings, Metrics()))
    client.get("/v1/models/leap-tiny-test?x=1", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    (span,) = spans.get_finished_spans()
    assert span.name == "GET /v1/models/{model}"
    assert format(span.context.trace_id, "032x") == TRACE
    assert span.attributes is not None
    assert (span.attributes["http.route"], span.attributes["http.status_code"]) == ("/v1/models/{model}", 200)
    assert span.resource.attributes["service.name"] == "leap-zoo"


def test_span__is_absent_for_requests_that_the_gate_refuses(
    engine: Engine, stores: Stores, spans: InMemorySpanExporter
) -> None:
    from serve.app import make_app

    settings = ServeSettings()
    client = TestClient(Gate(FastAPI(), traced(make_app(engine, stores, settings), spans), settings, Metrics()))
    assert client.get("/secret-path").status_code == 404
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 421
    assert spans.get_finished_spans() == ()


@pytest.mark.skipif(importlib.util.find_spec("opentelemetry.exporter") is not None, reason="the exporter is installed")
def test_exporter__that_is_missing_is_named() -> None:
    with pytest.raises(MissingExtra, match=r"leap-zoo\[otel\]"):
        otlp_exporter()
