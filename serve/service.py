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
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import bentoml
from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from bentoml._internal.utils.analytics import usage_stats
from bentoml.validators import ContentType
from pydantic import Field
from starlette.types import ASGIApp

from leap_zoo.errors import InvalidArgument
from serve.api.galleries import MAX_K, SearchOptions, searched
from serve.api.predict import MAX_TOP, ClassifyOptions, classified
from serve.api.schemas import Classes, Embedding, Hits
from serve.engine import Answer, Engine, Space
from serve.settings import ServeSettings, read_serve_settings, use_checkouts_zoo
from serve.stores import Stores

# BentoML reports usage to its makers unless told not to, and may have read and cached the variable before this module
# was imported. Nobody who starts this service has agreed to that.
os.environ.setdefault(usage_stats.BENTOML_DO_NOT_TRACK, "True")
usage_stats.do_not_track.cache_clear()

# For glibc in the workers, which inherit this: freed large blocks go back to the system. By default, glibc raises its
# threshold after the first large photo and keeps such blocks, so a server that has read a few stays larger forever.
for name, value in (("MMAP_THRESHOLD_", 2**20), ("TRIM_THRESHOLD_", 2**20), ("ARENA_MAX", 2)):
    os.environ.setdefault(f"MALLOC_{name}", str(value))


class ZooService(Service[object]):
    """A BentoML service with the gate as its outermost layer: middlewares added the usual way run innermost."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The worker's application. A worker that cannot build it also stops its supervisor, which would otherwise
        restart it forever with the port open; the check before the start cannot know everything that a worker needs.
        """
        try:
            return self._built(is_main)
        except Exception as error:
            if server_context.worker_index is None:
                raise
            print(f"Cannot serve: {type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr, flush=True)
            os.kill(os.getppid(), signal.SIGTERM)
            raise SystemExit(1) from None

    def _built(self, is_main: bool) -> ASGIApp:
        """Load and warm up the models, then build the application: until then, the worker accepts no requests."""
        from serve.app import build_site
        from serve.middleware import Gate
        from serve.native import NativeApp
        from serve.observe import Metrics, configure_log
        from serve.tracing import otlp_exporter, traced

        configure_log()
        settings, engine, stores = running()
        metrics = Metrics()
        engine.observe = metrics.stages
        site = build_site(engine, stores, settings)
        self.mount_asgi_app(site)
        site.openapi()  # cached; otherwise the first request with a wrong option would wait for it
        self.inject_config()
        native: ASGIApp = NativeApp(self, is_main=is_main)()
        api: ASGIApp = site
        if settings.otel == "on":
            exporter = otlp_exporter()
            native, api = traced(native, exporter), traced(api, exporter)
        gc.collect()
        gc.freeze()  # objects from the start stay to the end
        return Gate(native, api, settings, metrics, supervised=server_context.worker_index is not None)


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


class Running(NamedTuple):
    """What a worker has loaded."""

    settings: ServeSettings
    engine: Engine
    stores: Stores


@cache
def running() -> Running:
    """The models and stores of this process, loaded at the first call. Raises LeapZooError."""
    from serve.engine import start_engine
    from serve.stores import open_stores

    use_checkouts_zoo()
    settings = read_serve_settings()
    return Running(settings, start_engine(settings), open_stores(settings.data, qdrant=settings.qdrant))


async def _bytes_of(image: Path) -> bytes:
    return await asyncio.to_thread(image.read_bytes)


def _by(answer: Answer) -> dict[str, Any]:
    return {"model": answer.model, "precision": answer.precision, "milliseconds": answer.milliseconds}


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
        self._running = running()

    @bentoml.api
    async def classify(
        self,
        image: Photo,
        top: Annotated[int, Field(ge=1, le=MAX_TOP)] = 5,
        head: Annotated[str, Field(max_length=64)] | None = None,
    ) -> Classes:
        """Classify a photo. head: one of the model's, or one created at /v1/heads."""
        photos, options = [await _bytes_of(image)], ClassifyOptions(top=top, head=head)
        answer = await classified(self._running.engine, self._running.stores.heads, photos, options)
        (predictions,) = answer.predictions
        return Classes(predictions=predictions, head=answer.head, unsure=predictions.unsure, **_by(answer))

    @bentoml.api
    async def embed(self, image: Photo, space: Space = "student") -> Embedding:
        """Turn a photo into a vector. space: the student's own, or the teacher's."""
        answer = await self._running.engine.embed([await _bytes_of(image)], space=space)
        (vector,) = answer.embeddings
        return Embedding(embedding=vector.tolist(), dim=vector.size, space=answer.space, **_by(answer))

    @bentoml.api
    async def search(
        self,
        image: Photo,
        gallery: Annotated[str, Field(max_length=64)],
        k: Annotated[int, Field(ge=1, le=MAX_K)] = 10,
        where: dict[str, str | int | bool] | None = None,
    ) -> Hits:
        """Find similar photos in a gallery. where: only items whose metadata has these values."""
        photos, options = [await _bytes_of(image)], SearchOptions(k=k)
        running = self._running
        _, answer, found = await searched(running.engine, running.stores, gallery, photos, options, where)
        return Hits(hits=list(found[0]), gallery=gallery, space=answer.space, **_by(answer))

    @bentoml.on_deployment
    @staticmethod
    def refuse_to_start() -> None:
        """Check once, before any worker starts, that a worker could serve: one that cannot is restarted forever."""
        from leap_zoo import LeapZooError
        from serve.engine import start_engine
        from serve.keys import Keys
        from serve.shelf import Shelf, zoos_to_hand_on
        from serve.stores import open_stores
        from serve.tracing import otlp_exporter

        end_with_the_terminal()
        use_checkouts_zoo()
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
