"""The page at /ui: drop a photo, see the classes as bars, the milliseconds, and the model's card."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder

from leap_zoo.errors import LeapZooError
from leap_zoo.preprocess import MAX_BYTES
from serve import views
from serve.engine import Engine
from serve.front import UI_PATH
from serve.problems import Refused, refusal_of

TOP = 5
MAX_QUEUE = 32  # visitors that may wait; the next one is told to come back
KEEP_SECONDS = 3600  # an uploaded photo's life on disk; the page needs it for showing it and for another head

_CSS = Path(__file__).with_name("demo.css")
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "monospace"]


def mount_page(site: FastAPI, engine: Engine) -> None:
    """Mount the page on `site`, with nothing that needs another host: no analytics, no fonts, no scripts."""
    gr.mount_gradio_app(
        site,
        _blocks(engine),
        path=UI_PATH,
        theme=gr.themes.Base(primary_hue="teal", neutral_hue="slate", radius_size="lg", font=_FONTS, font_mono=_MONO),
        css_paths=[_CSS],
        max_file_size=MAX_BYTES,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,  # an exception's text may hold paths; gr.Error is shown all the same
        pwa=False,
    )


def _blocks(engine: Engine) -> gr.Blocks:
    model = engine.models.default
    heads = [(f"{head.name} · {len(head.labels):,} classes", head.name) for head in model.card.heads]
    cleaning = (KEEP_SECONDS, KEEP_SECONDS)
    with gr.Blocks(title="LEAP Zoo", analytics_enabled=False, delete_cache=cleaning, fill_width=False) as blocks:
        gr.HTML(views.masthead(model))
        with gr.Row(equal_height=False, elem_classes="leap-stage"):
            with gr.Column(min_width=320):
                photo = _photo_input()
                head = gr.Radio(
                    heads, value=model.card.default_head, label="Classes to choose from", visible=len(heads) > 1
                )
            with gr.Column(min_width=320):
                result = gr.HTML(views.NO_PHOTO, elem_id="leap-result")
        for component in (photo, head):
            _take_uploads_only(component)
        gr.HTML(views.card_view(model))
        gr.HTML("<p class='leap-foot'>Photos stay on this server, and are deleted within two hours.</p>")

        async def show(path: str | None, head_name: str) -> str:
            return await _classify(engine, path, head_name)

        gr.on(
            [photo.change, head.change],
            show,
            [photo, head],
            result,
            show_progress="hidden",
            concurrency_limit=engine.threads,
            trigger_mode="always_last",
            api_visibility="private",
        )
    blocks.queue(max_size=MAX_QUEUE)
    return blocks


async def _classify(engine: Engine, path: str | None, head: str) -> str:
    """The bars for the uploaded photo at `path`, or what is wrong with it.

    A refusal takes the place of the bars: in a passing notice it would leave the last photo's classes beside this one.
    """
    if path is None:
        return views.NO_PHOTO
    try:
        answer = await engine.classify([Path(path).read_bytes()], top=TOP, head=head)
    except FileNotFoundError:
        return views.refusal("The photo has been deleted meanwhile. Drop it again.")
    except Refused as refused:
        return views.refusal(refused.detail)
    except LeapZooError as error:
        return views.refusal(refusal_of(error).detail)
    return views.bars(answer, answer.precision)


def _photo_input() -> gr.Image:
    """An image input that hands over the uploaded file as it is.

    Gradio's own preprocessing opens the file with Pillow, whatever its size and format.
    """
    photo = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label="Your photo",
        height=380,
        buttons=[],
        elem_id="leap-photo",
    )

    def as_uploaded(payload: ImageData | None) -> str | None:
        return _uploaded(payload.path) if payload else None

    # On the instance, here and below: a subclass of a component makes Gradio write a stub file beside this module.
    setattr(photo, "preprocess", as_uploaded)  # noqa: B010
    return photo


def _take_uploads_only(component: gr.components.Component) -> None:
    """Keep `component` from copying files of this machine, or downloading addresses, that a client names as a value.

    Gradio turns every value that looks like a file into one of its cache, and checks where it comes from only in an
    application that was launched, not in one that was mounted.
    """
    to_cache = component.async_move_resource_to_block_cache

    async def guarded(path: str | Path | None) -> str | None:
        return await to_cache(_uploaded(path))

    setattr(component, "async_move_resource_to_block_cache", guarded)  # noqa: B010


def _uploaded(path: str | Path | None) -> str | None:
    """`path` as it is when Gradio has stored an upload there. Raises gr.Error for any other file or address."""
    if path is None or Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        return path if path is None else str(path)
    raise gr.Error("Only uploaded photos are read.", print_exception=False)
