"""The page itself: its title, its tabs, and how it is mounted so that it needs no other host."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from leap_zoo import Model
from serve.demo import classes_tab, classify_tab, learned_tab, search_tab, zoo_tab
from serve.demo.backend import Backend
from serve.demo.guard import Guard
from serve.demo.markup import chips, count, megabytes
from serve.demo.quota import UploadQuota
from serve.demo.uploads import KEEP_SECONDS, take_uploads_only
from serve.demo.visitor import MAX_VISITORS, Visitor
from serve.engine import Engine
from serve.middleware import UI_PATH
from serve.settings import PHOTO
from serve.shelf import Shelf

MAX_QUEUE = 32  # actions of visitors that may wait; the next one is told to come back

FOOT = (
    "<p class='leap-foot'>Photos stay on this server, and are deleted within two hours. The same for programs: "
    "<a href='../docs'>the API</a>, <a href='../'>start page</a>.</p>"
)

_CSS = Path(__file__).with_name("demo.css")
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "monospace"]


def mount_page(site: FastAPI, engine: Engine, shelf: Shelf) -> None:
    """Mount the page on `site`, with nothing that needs another host: no analytics, no fonts, no scripts."""
    gr.mount_gradio_app(
        site,
        build_page(engine, shelf),
        path=UI_PATH,
        theme=gr.themes.Base(primary_hue="teal", neutral_hue="slate", radius_size="lg", font=_FONTS, font_mono=_MONO),
        css_paths=[_CSS],
        max_file_size=PHOTO.bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,  # an exception's text may hold paths; gr.Error is shown all the same
        pwa=False,
    )
    mounted = next(route for route in site.routes if isinstance(route, Mount) and route.path == UI_PATH)
    mounted.app = UploadQuota(Guard(mounted.app))


def build_page(engine: Engine, shelf: Shelf) -> gr.Blocks:
    """The page over `engine`; `shelf` is what can be downloaded."""
    backend = Backend(engine)
    cleaning = (KEEP_SECONDS, KEEP_SECONDS)
    with gr.Blocks(title="LEAP Zoo", analytics_enabled=False, delete_cache=cleaning, fill_width=False) as blocks:
        gr.HTML(_masthead(backend.model))
        visitor = gr.State(Visitor(), time_to_live=KEEP_SECONDS)
        with gr.Tabs(elem_id="leap-tabs"):
            with gr.Tab("Classify", id="classify"):
                classify = classify_tab.build(backend, visitor)
            with gr.Tab("Search", id="search"):
                search_tab.build(backend, visitor)
            with gr.Tab("Your classes", id="classes"):
                classes_tab.build(backend, visitor, classify)
            with gr.Tab("Zoo", id="zoo"):
                zoo_tab.build(backend.cards(), shelf)
            with gr.Tab("How it learned", id="learned"):
                learned_tab.build(backend.card)
        gr.HTML(FOOT)
    for block in blocks.blocks.values():
        if isinstance(block, gr.components.Component):
            take_uploads_only(block)
    blocks.queue(max_size=MAX_QUEUE, api_open=False)  # nobody gets past the queue
    blocks.state_session_capacity = MAX_VISITORS
    return blocks


def _masthead(model: Model) -> str:
    """The page's title, and the model in one line."""
    card, artifact = model.card, model.artifact
    facts = chips(
        [card.id, f"{count(card.parameters)} parameters", artifact.precision, megabytes(artifact.total_bytes)]
    )
    return (
        '<header class="leap-masthead"><h1>LEAP Zoo</h1>'
        "<p>A small vision transformer, distilled from a large one, running on this server's CPU.</p>"
        f"{facts}</header>"
    )
