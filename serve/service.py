"""The BentoML service, named by bentofile.yaml: `bentoml serve` in the repository's root.

BentoML keeps the process: workers, restarts, health, metrics, time-out. What is answered is in the modules beside this.
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.context import server_context
from bentoml._internal.utils.analytics import usage_stats
from starlette.types import ASGIApp

from serve.front import Front
from serve.keys import Keys
from serve.settings import read_serve_settings, use_checkouts_zoo
from serve.shelf import Shelf, zoos_to_hand_on

# BentoML reports usage to its makers unless told not to, and may have asked, and remembered, before this module was
# imported. Nobody who starts a server from here has agreed to that.
os.environ.setdefault(usage_stats.BENTOML_DO_NOT_TRACK, "True")
usage_stats.do_not_track.cache_clear()


class ZooService(Service[object]):
    """A BentoML service whose outermost layer is ours: middlewares added the usual way run innermost."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Load and warm the model, then build the application around it: the worker accepts nothing before."""
        from serve import logs, memory, metrics_folder
        from serve.engine import start_engine
        from serve.metrics import Metrics
        from serve.site import build_site
        from serve.stores import open_stores

        memory.return_memory()
        use_checkouts_zoo()
        settings = read_serve_settings()
        logs.configure(settings.log)
        metrics_folder.use_folder()
        metrics = Metrics()
        engine = start_engine(settings)
        metrics.watch(engine)
        site = build_site(engine, open_stores(settings.data, qdrant=settings.qdrant), settings)
        self.mount_asgi_app(site)
        site.openapi()  # which is kept; the first wrong option would wait for it
        memory.settle()
        supervised = server_context.worker_index is not None
        return Front(super().to_asgi(is_main), site, settings, metrics, supervised=supervised)


@bentoml.service(
    name="leap-zoo",
    service_class=ZooService,
    workers=1,  # Gradio's queue lives in one process; the engine's threads use all cores
    traffic={"timeout": 10},
    logging={"access": {"enabled": False}},  # serve.logs has a line for each request, without the client's address
    # Reachable from this machine only, on purpose: without LEAP_ZOO_SERVE_KEYS_FILE anybody may call.
    # `--host 0.0.0.0` opens it.
    http={"host": "127.0.0.1", "port": 3000},
)
class LeapZoo:
    """Small vision transformers over HTTP."""

    @bentoml.on_deployment
    @staticmethod
    def refuse_to_start_without_model() -> None:
        """Load the model once before any worker starts: a worker that cannot would be restarted for ever."""
        from leap_zoo import LeapZooError
        from serve import metrics_folder, supervisor
        from serve.engine import start_engine
        from serve.stores import open_stores

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
            raise SystemExit(f"Cannot serve the model {settings.model or 'that is the default'}: {error}") from error
        metrics_folder.make_folder(Path(BentoMLContainer.bentoml_home.get()))
        supervisor.check_often()
