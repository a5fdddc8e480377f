"""The page: its title, its tabs, and how it is mounted so that it needs no other host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from leap_zoo import Model
from serve.api.zoo import Shelf
from serve.demo import classes, classify, search, zoo
from serve.demo.guard import Guard, explain
from serve.demo.samples import ATTRIBUTION
from serve.demo.uploads import KEEP_SECONDS, MAX_VISITORS, Visitor, take_uploads_only, use_private_folder
from serve.engine import Engine
from serve.rules import UI_PATH
from serve.settings import PHOTO

MAX_QUEUE = 32  # actions that may wait in the queue; further ones are refused

# Relative links keep the prefix of a reverse proxy. HTML, because links in Gradio's Markdown open a new window.
FOOT = (
    "<p>Photos stay on this server and are deleted within two hours. Programs can use "
    '<a href="../docs">the API</a>. <a href="../">Start page</a>.</p>'
)

_CSS = Path(__file__).with_name("demo.css")
_NAMES = Path(__file__).with_name("names.js").read_text(encoding="utf-8")
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "monospace"]
_CONTRAST = {  # WCAG AA asks for 4.5:1; Gradio's defaults are 2.5:1
    "body_text_color_subdued": "*neutral_600",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_hover_dark": "*primary_800",
}


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
        theme=theme.set(**_CONTRAST),
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
