"""The BentoML service, named by bentofile.yaml: `bentoml serve` in the repository's root.

BentoML is the launcher and the packager: workers, restarts, health, metrics, bentos. What is answered, and under which
limits, is in the modules beside this: the worker's outermost application is `serve.middleware.Gate`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading

import bentoml
from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from bentoml._internal.utils.analytics import usage_stats
from starlette.types import ASGIApp

from serve.settings import read_serve_settings, use_checkouts_zoo

# BentoML reports usage to its makers unless told not to, and may have asked, and remembered, before this module was
# imported. Nobody who starts a server from here has agreed to that.
os.environ.setdefault(usage_stats.BENTOML_DO_NOT_TRACK, "True")
usage_stats.do_not_track.cache_clear()

# glibc of the workers, which inherit this: large blocks go back to the system when they are freed. By default it learns
# from the first large photo to keep such blocks, and a server that has met a few stays larger for ever.
for name, value in (("MMAP_THRESHOLD_", 2**20), ("TRIM_THRESHOLD_", 2**20), ("ARENA_MAX", 2)):
    os.environ.setdefault(f"MALLOC_{name}", str(value))


class ZooService(Service[object]):
    """A BentoML service whose outermost layer is ours: middlewares added the usual way run innermost."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The worker's application. A worker that cannot make it takes its supervisor along, which would restart it
        for ever with the port open; the check before the start cannot know everything that a worker needs.
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
        """Load and warm the models, then build the application around them: the worker accepts nothing before."""
        from serve.app import build_site
        from serve.engine import start_engine
        from serve.middleware import Gate
        from serve.observe import Metrics, configure_log
        from serve.stores import open_stores

        use_checkouts_zoo()
        settings = read_serve_settings()
        configure_log(settings.log)
        metrics = Metrics()
        engine = start_engine(settings)
        metrics.watch(engine)
        site = build_site(engine, open_stores(settings.data, qdrant=settings.qdrant), settings)
        self.mount_asgi_app(site)
        site.openapi()  # which is kept; the first wrong option would wait for it
        gc.collect()
        gc.freeze()  # what start-up made stays to the end
        return Gate(
            super().to_asgi(is_main), site, settings, metrics, supervised=server_context.worker_index is not None
        )


def end_with_the_terminal() -> None:
    """In the supervisor: take the end of its terminal (SIGHUP) for SIGTERM. BentoML's library would restart the worker.

    Not under nohup, which has the signal ignored.
    """
    if sys.platform == "win32" or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

    def wait() -> None:
        signal.sigwait({signal.SIGHUP})
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="terminal", daemon=True).start()


@bentoml.service(
    name="leap-zoo",
    service_class=ZooService,
    workers=1,  # Gradio's queue lives in one process; the engine's threads use all cores
    traffic={"timeout": 10},
    logging={"access": {"enabled": False}},  # serve.observe has a line for each request, without the client's address
    # Reachable from this machine only, on purpose: without LEAP_ZOO_SERVE_KEYS_FILE anybody may call.
    # `--host 0.0.0.0` opens it.
    http={"host": "127.0.0.1", "port": 3000},
)
class LeapZoo:
    """Small vision transformers over HTTP."""

    @bentoml.on_deployment
    @staticmethod
    def refuse_to_start() -> None:
        """Check once, before any worker starts, what a worker needs: one that cannot serve is restarted for ever."""
        from leap_zoo import LeapZooError
        from serve.engine import start_engine
        from serve.keys import Keys
        from serve.shelf import Shelf, zoos_to_hand_on
        from serve.stores import open_stores

        end_with_the_terminal()
        use_checkouts_zoo()
        try:
            settings = read_serve_settings()
            Shelf(zoos_to_hand_on(settings))
            if settings.keys_file:
                Keys(settings.keys_file)
            if settings.data:
                open_stores(settings.data, qdrant=settings.qdrant).close()
        except LeapZooError as error:
            raise SystemExit(f"Cannot serve: {error}") from error
        try:
            start_engine(settings)
        except LeapZooError as error:
            named = repr(settings.model) if settings.model else "that is the default"
            named += "".join(f" or {one!r}" for one in settings.models)
            raise SystemExit(f"Cannot serve the model {named}: {error}") from error
