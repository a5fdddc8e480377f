"""The BentoML service, named by bentofile.yaml: `bentoml serve` in the repository's root.

BentoML launches and packages the service: workers, restarts, health, metrics, bentos. The other modules of this package
define the answers and the limits; the worker's outermost application is `serve.middleware.Gate`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Annotated

import bentoml
from _bentoml_impl.serde import JSONSerde
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from bentoml._internal.utils.analytics import usage_stats
from bentoml.validators import ContentType
from pydantic import Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from leap_zoo.errors import InvalidArgument, LeapZooError, nearest, short
from serve.api.galleries import MAX_K, Conditions, SearchOptions, searched
from serve.api.predict import MAX_TOP, ClassifyOptions, classified
from serve.api.schemas import Classes, Embedding, Hits, about
from serve.api.zoo import Shelf, zoos_to_hand_on
from serve.app import answer_errors, build_site
from serve.engine import Engine, Space, start_engine
from serve.keys import Keys
from serve.middleware import Gate
from serve.observe import Metrics, configure_log, otlp_exporter, traced
from serve.photos import read_photo
from serve.problems import Refused, invalid_options, refusal_of
from serve.settings import ServeSettings, read_serve_settings
from serve.stores import Stores, open_stores

# BentoML reports usage to its makers unless told not to, and may have read and cached the variable before this module
# was imported. Nobody who starts this service has agreed to that.
os.environ.setdefault(usage_stats.BENTOML_DO_NOT_TRACK, "True")
usage_stats.do_not_track.cache_clear()

# For glibc in the workers, which inherit this: freed large blocks go back to the system. By default, glibc raises its
# threshold after the first large photo and keeps such blocks, so a server that has read a few stays larger forever.
for name, value in (("MMAP_THRESHOLD_", 2**20), ("TRIM_THRESHOLD_", 2**20), ("ARENA_MAX", 2)):
    os.environ.setdefault(f"MALLOC_{name}", str(value))


class NativeApp(ServiceAppFactory):
    """The service's methods over HTTP: BentoML's application, with photos read and refused as in the API.

    A photo and options come in a form, as BentoML's clients send it; or the photo is the body, and the options are in
    the query. BentoML itself would fetch a URL that is sent instead of a photo, and answer a broken photo with 500.
    """

    def __call__(self) -> Starlette:
        """The application."""
        app = super().__call__()
        answer_errors(app)
        return app

    async def api_endpoint(self, name: str, request: Request) -> Response:
        """Call the method `name`. Every failure is a Problem."""
        method = self.service.apis[name]
        known = list(method.input_spec.model_fields)
        try:
            photo, options = await read_photo(request)
            given = dict(request.query_params) | options
            for unknown in given.keys() - set(known):
                raise Refused("invalid_option", f"Unknown option {short(unknown)}{nearest(unknown, known)}.")
            try:
                # In a thread: BentoML's methods take a path, so the photo becomes a temporary file of this request.
                found = await asyncio.to_thread(method.input_spec.model_validate, given | {"image": photo})
            except ValidationError as error:
                raise invalid_options(error.errors(), known) from error
            call = getattr(self._service_instance, name).local
            answer = await call(**{option: getattr(found, option) for option in known})
            return await method.output_spec.to_http_response(answer, JSONSerde())
        except Exception as error:
            return refusal_of(error).response()


class ZooService(Service[object]):
    """A BentoML service with the gate as its outermost layer: middlewares added the usual way run innermost."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The worker's application. A worker that cannot build it also stops its supervisor, which would otherwise
        restart it forever with the port open; the check before the start cannot know everything that a worker needs.
        """
        supervised = server_context.worker_index is not None
        try:
            return self._built(is_main, supervised)
        except Exception as error:
            if not supervised:
                raise
            print(f"Cannot serve: {type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr, flush=True)
            os.kill(os.getppid(), signal.SIGTERM)
            raise SystemExit(1) from None

    def _built(self, is_main: bool, supervised: bool) -> ASGIApp:
        """Load and warm up the models, then build the application: until then, the worker accepts no requests."""
        configure_log()
        settings, engine, stores = running()
        metrics = Metrics()
        engine.observe = metrics.stages
        site = build_site(engine, stores, settings)
        self.mount_asgi_app(site)
        site.openapi()  # cached; otherwise its first reader would keep all other requests waiting
        self.inject_config()
        native: ASGIApp = NativeApp(self, is_main=is_main)()
        api: ASGIApp = site
        if settings.otel == "on":
            exporter = otlp_exporter()
            native, api = traced(native, exporter), traced(api, exporter)
        if settings.workers > 1:
            share_connections()
        gc.collect()
        gc.freeze()  # objects from the start stay to the end
        return Gate(native, api, settings, metrics, end_streams=site.state.end_streams, supervised=supervised)


def end_with_the_terminal() -> None:
    """In the supervisor: treat the end of its terminal (SIGHUP) as SIGTERM. BentoML's library would restart the worker.

    Not under nohup, which sets the signal to be ignored.
    """
    if sys.platform == "win32" or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    def wait() -> None:
        signal.sigwait({signal.SIGHUP})
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="terminal", daemon=True).start()


def share_connections() -> None:
    """Pause for a moment after each new connection, so that another worker accepts the next one of a burst.

    Workers share one socket, and the event loop of one would otherwise accept all connections that wait.
    """
    accepted = HttpToolsProtocol.connection_made

    def connection_made(self: HttpToolsProtocol, transport: asyncio.Transport) -> None:
        accepted(self, transport)
        time.sleep(1e-5)

    HttpToolsProtocol.connection_made = connection_made  # type: ignore[method-assign]


@cache
def running() -> tuple[ServeSettings, Engine, Stores]:
    """The models and stores of this process, loaded at the first call. Raises LeapZooError."""
    settings = read_serve_settings()
    return settings, start_engine(settings), open_stores(settings.data, qdrant=settings.qdrant)


def _workers() -> int:
    """How many processes answer. `refuse_to_start` reports errors in the settings."""
    try:
        return read_serve_settings().workers
    except InvalidArgument:
        return 1


Photo = Annotated[Path, ContentType("image/*")]


@bentoml.service(
    name="leap-zoo",
    service_class=ZooService,
    workers=_workers(),
    traffic={"timeout": 10},
    logging={"access": {"enabled": False}},  # serve.observe logs a line per request, without the client's address
    # Reachable from this machine only, on purpose: without LEAP_ZOO_SERVE_KEYS_FILE anyone may call.
    # `--host 0.0.0.0` opens it.
    http={"host": "127.0.0.1", "port": 3000},
)
class LeapZoo:
    """Small vision transformers over HTTP: one photo per call, by the default model. The API at /v1 has more."""

    def __init__(self) -> None:
        _, self._engine, self._stores = running()

    @bentoml.api
    async def classify(
        self,
        image: Photo,
        top: Annotated[int, Field(ge=1, le=MAX_TOP)] = 5,
        head: Annotated[str, Field(max_length=64)] | None = None,
    ) -> Classes:
        """Classify a photo. head: one of the model's, or one created at /v1/heads."""
        photo = await asyncio.to_thread(image.read_bytes)
        options = ClassifyOptions(top=top, head=head)
        answer = await classified(self._engine, self._stores.heads, [photo], options)
        (predictions,) = answer.predictions
        return Classes(predictions=predictions, head=answer.head, unsure=predictions.unsure, **about(answer))

    @bentoml.api
    async def embed(self, image: Photo, space: Space = "student") -> Embedding:
        """Turn a photo into a vector. space: the student's own, or the teacher's."""
        photo = await asyncio.to_thread(image.read_bytes)
        answer = await self._engine.embed([photo], space=space)
        (vector,) = answer.embeddings
        return Embedding(embedding=vector.tolist(), dim=vector.size, space=answer.space, **about(answer))

    @bentoml.api
    async def search(
        self,
        image: Photo,
        gallery: Annotated[str, Field(max_length=64)],
        k: Annotated[int, Field(ge=1, le=MAX_K)] = 10,
        where: Conditions | None = None,
    ) -> Hits:
        """Find similar photos in a gallery. where: only items whose metadata has these values."""
        photo = await asyncio.to_thread(image.read_bytes)
        options = SearchOptions.model_construct(k=k, where=where)
        _, answer, found = await searched(self._engine, self._stores, gallery, [photo], options)
        return Hits(hits=list(found[0]), gallery=gallery, space=answer.space, **about(answer))

    @bentoml.on_deployment
    @staticmethod
    def refuse_to_start() -> None:
        """Check once, before any worker starts, that a worker could serve: one that cannot is restarted forever."""
        end_with_the_terminal()
        try:
            settings = read_serve_settings()
            Shelf(zoos_to_hand_on(settings))
            if settings.keys_file:
                Keys(settings.keys_file)
            if settings.otel == "on":
                otlp_exporter().shutdown()
            if settings.data:
                open_stores(settings.data, qdrant=settings.qdrant).close()
            start_engine(settings)
        except LeapZooError as error:
            raise SystemExit(f"Cannot serve: {error}") from error
