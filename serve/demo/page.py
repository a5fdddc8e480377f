"""The page: its title, its tabs, and how it is mounted so that it needs no other host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.exceptions import Error as GradioError
from gradio.route_utils import FnIndexInferError
from gradio.utils import get_upload_folder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leap_zoo import Model
from serve.api.zoo import Shelf
from serve.demo import classes, classify, search, zoo
from serve.demo.uploads import (
    ATTRIBUTION,
    KEEP_SECONDS,
    MAX_VISITORS,
    Visitor,
    explain,
    take_uploads_only,
    use_private_folder,
)
from serve.engine import Engine
from serve.problems import Refused, internal_error
from serve.rules import UI_PATH
from serve.settings import PHOTO
from serve.stores import bytes_below

MAX_STORED_BYTES = 1024**3
FULL = "The server's space for uploads is full. Photos are deleted after an hour or two: try again later."
# How long an event stream may still run when the process stops: somebody may wait for its results.
LAST_WORDS_SECONDS = 3.0
UNKNOWN = "The page has no such function. It is for browsers; programs use the API at /v1, see /docs."

_UPLOAD = "/gradio_api/upload"
# Routes whose request names a function or a component of the page.
_NAMED = ("/gradio_api/queue/join", "/gradio_api/call", "/gradio_api/run", "/gradio_api/component_server")
MAX_QUEUE = 32  # actions that may wait in the queue; further ones are refused

_CSS = Path(__file__).with_name("demo.css")
_NAMES, FOOT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("names.js", "foot.html"))
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "monospace"]


def mount_page(site: FastAPI, engine: Engine, shelf: Shelf) -> Callable[[], object]:
    """Mount the page on `site`, with nothing that needs another host: no analytics, no fonts, no scripts.

    shelf: the models that can be downloaded. Returns a function that ends the event streams of open pages.
    """
    use_private_folder()
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", radius_size="lg", font=_FONTS, font_mono=_MONO)
    gr.mount_gradio_app(
        site,
        build_page(engine, shelf),
        path=UI_PATH,
        theme=theme,
        css_paths=[_CSS],
        js=_NAMES,
        max_file_size=PHOTO.bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,  # an exception's text may contain paths; gr.Error is shown anyway
        pwa=False,
    )
    mounted = next(route for route in site.routes if isinstance(route, Mount) and route.path == UI_PATH)
    page: Any = mounted.app
    answer_failures(page)
    mounted.app = guard = Guard(page, page.stop_event)
    return guard.end_streams


def build_page(engine: Engine, shelf: Shelf) -> gr.Blocks:
    """The page over `engine`."""
    cleaning = (KEEP_SECONDS, KEEP_SECONDS)
    blocks: gr.Blocks
    with gr.Blocks(title="LEAP Zoo", analytics_enabled=False, delete_cache=cleaning) as blocks:
        gr.Markdown(_title(engine.models.default), elem_id="leap-title")
        visitor = gr.State(Visitor(), time_to_live=KEEP_SECONDS)
        with gr.Tabs(elem_id="leap-tabs"):
            with gr.Tab("Classify", id="classify"):
                heads = classify.build(engine, visitor)
            with gr.Tab("Search", id="search"):
                search.build(engine, visitor)
            with gr.Tab("Your classes", id="classes"):
                classes.build(engine, visitor, heads)
            with gr.Tab("Zoo", id="zoo"):
                zoo.build(engine, shelf)
        with gr.Accordion("Authors of the sample photos", open=False):
            gr.Markdown(ATTRIBUTION.read_text(encoding="utf-8"), elem_id="leap-authors")
        gr.HTML(FOOT, elem_id="leap-foot")
    for block in blocks.blocks.values():
        if isinstance(block, gr.components.Component):
            take_uploads_only(block)
    explain_failures(blocks)
    blocks.queue(max_size=MAX_QUEUE, api_open=False)  # no request bypasses the queue
    blocks._queue.sleep_when_free = 0.02  # seconds; Gradio's 1 ms would keep the event loop busy
    blocks.state_session_capacity = MAX_VISITORS
    return blocks


def explain_failures(blocks: gr.Blocks) -> None:
    """Show the message of a visitor's mistake; log any other exception, and report only that there was one."""
    process = blocks.process_api

    async def explained(*args: Any, **options: Any) -> dict[str, Any]:
        try:
            return await process(*args, **options)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(explain(error), duration=None, print_exception=False) from error

    blocks.process_api = explained  # type: ignore[method-assign]


def _title(model: Model) -> str:
    card, artifact = model.card, model.artifact
    return (
        f"# LEAP Zoo\n\n{card.id}: a vision transformer of {card.parameters / 1e6:.1f} M parameters, distilled from a "
        f"large one, as one {artifact.precision} file of {artifact.total_bytes / 1e6:.1f} MB on this server's CPU."
    )


class Guard:
    """Limits uploads to the page `app`, and ends its event streams."""

    def __init__(self, app: ASGIApp, stop_event: asyncio.Event) -> None:
        """stop_event: Gradio's, which ends its heartbeats."""
        self.app = app
        self._stop_event = stop_event
        self._streams: set[asyncio.Timeout] = set()

    def end_streams(self) -> None:
        """End the event streams of open pages, which last as long as a browser tab: heartbeats at once, results soon.

        Gradio does not end a stream of results whose session has nothing to do.
        """
        self._stop_event.set()
        for stream in self._streams:
            _end_soon(stream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        uploads = Path(get_upload_folder())
        if scope["path"].endswith(_UPLOAD) and await asyncio.to_thread(bytes_below, uploads) >= MAX_STORED_BYTES:
            await Refused("busy", FULL, {"retry-after": "600"}).response()(scope, receive, send)
            return
        clock = asyncio.timeout(None)

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_stream(message):
                self._streams.add(clock)
                if self._stop_event.is_set():
                    _end_soon(clock)
            await send(message)

        try:
            async with clock:
                await self.app(scope, receive, watched_send)
        except Exception as error:
            # The process stops, or Gradio raises inside a stream whose session it does not know.
            if not (clock.expired() or isinstance(error.__cause__, HTTPException)):
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._streams.discard(clock)


def answer_failures(page: Starlette) -> None:
    """Answer what Gradio's own application raises with a Problem. uvicorn logs failures."""

    async def fail(_: Request, error: Exception) -> Response:
        return internal_error().response()

    async def unknown(request: Request, error: Exception) -> Response:
        if not any(route in request.url.path for route in _NAMED):
            raise error
        return Refused("invalid_body", UNKNOWN).response()

    page.add_exception_handler(Exception, fail)
    for kind in (LookupError, GradioError, FnIndexInferError):  # Gradio looks the named function up without a check
        page.add_exception_handler(kind, unknown)


def _is_stream(start: Message) -> bool:
    return any(name == b"content-type" and kind.startswith(b"text/event-stream") for name, kind in start["headers"])


def _end_soon(stream: asyncio.Timeout) -> None:
    stream.reschedule(asyncio.get_running_loop().time() + LAST_WORDS_SECONDS)
