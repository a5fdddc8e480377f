"""A span for each request, with LEAP_ZOO_SERVE_OTEL=on; OpenTelemetry's OTEL_ variables set where spans are sent.

Only requests that pass the gate have one. A span is named after the route, and belongs to the trace that the client
names in the header `traceparent`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leap_zoo.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


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
