"""The tab Your classes: drop a few photos per class, fit a head to them, try it, download it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from jinja2 import Template

import leap_zoo
from leap_zoo import InvalidArgument
from leap_zoo.fitting import Fit
from leap_zoo.heads import encode_head
from serve.demo.classify import NO_PHOTO, answer, head_choices, label_output
from serve.demo.uploads import MAX_PHOTOS, SAMPLES, Photo, Visitor, gallery, gather, photo_input, photos_input
from serve.engine import Engine

MAX_NAME = 60
_FIT = Path(__file__).with_name("fit.md").read_text(encoding="utf-8")
HEAD_FILE = "my-classes.head"
LEAD = (
    "Name a class and drop a few photos of it; then do the same for the next class. Five to ten photos per class are a "
    "good start. Fitting takes seconds on the CPU. Click a photo to remove it."
)
NOTHING_FITTED = "No head has been fitted yet."
EXAMPLE = {group: [f"{group} {number}" for number in (1, 2, 3)] for group in ("coffee", "pier", "taxi")}


def build(engine: Engine, visitor: gr.State, heads: gr.Radio) -> None:
    """Lay out the tab in the current container. heads: the choice on the tab Classify, to which a new head is added."""
    gr.Markdown(LEAD)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            name = gr.Textbox(label="Name of the class", max_length=MAX_NAME, elem_id="leap-name")
            drop = photos_input("Its photos", "leap-drop")
            with gr.Row():
                example = gr.Button("Use sample photos", elem_id="leap-example")
                reset = gr.Button("Start over", elem_id="leap-reset")
            members = gallery("Photos of your classes", "leap-members", 4)
            fit = gr.Button("Fit", variant="primary", elem_id="leap-fit")
        with gr.Column(min_width=300):
            report = gr.Markdown(NOTHING_FITTED, elem_id="leap-report")
            table = gr.Dataframe(
                headers=["Class", "Photos", "Recognized"],
                label="Results by class",
                interactive=False,
                visible=False,
                buttons=[],
                elem_id="leap-by-class",
            )
            download = gr.DownloadButton(f"Download {HEAD_FILE}", visible=False, elem_id="leap-head-file")
            with gr.Column(visible=False) as trial:
                photo = photo_input("Try it on another photo", "leap-try")
                label = label_output("leap-tried")
                note = gr.Markdown(NO_PHOTO, elem_id="leap-tried-note")

    async def add(paths: list[str], name: str, visitor: Visitor) -> tuple[object, ...]:
        called = " ".join(name.split())[:MAX_NAME]
        if not called:
            gr.Warning("Name the class first, then drop its photos.")
            return visitor, gr.skip(), None  # an error would leave them in the zone, and they would be added twice
        good = await gather(engine, paths, MAX_PHOTOS - len(visitor.members))
        visitor.members += [replace(photo, label=called) for photo in good]
        return visitor, _wall(visitor), None

    def use_samples(visitor: Visitor) -> tuple[object, ...]:
        visitor.members = [
            Photo(name, str(SAMPLES[name]), str(SAMPLES[name]), label)
            for label, names in EXAMPLE.items()
            for name in names
        ]
        return visitor, _wall(visitor)

    def take_out(event: gr.SelectData, visitor: Visitor) -> tuple[object, ...]:
        if event.index in range(len(visitor.members)):
            del visitor.members[event.index]
        return visitor, _wall(visitor)

    def start_over(visitor: Visitor) -> tuple[object, ...]:
        visitor.members, visitor.head = [], None
        hidden = gr.update(visible=False)
        default = gr.Radio(head_choices(engine, None), value=engine.models.default.card.default_head)
        return visitor, "", _wall(visitor), NOTHING_FITTED, hidden, hidden, hidden, None, default

    async def learn(visitor: Visitor) -> tuple[object, ...]:
        fitted = list(visitor.members)  # the visitor may change them meanwhile
        found = await _fit(engine, fitted)
        visitor.head = found.head
        rows = [
            [one.label, one.photos, f"{one.right} of {one.tested}" if one.tested else "not tested"]
            for one in found.classes
        ]
        return (
            visitor,
            _report(found, fitted),
            gr.Dataframe(rows, visible=True),
            gr.DownloadButton(value=_file_of(found), visible=True),
            gr.Column(visible=True),
            gr.Radio(head_choices(engine, found.head), visible=True),
        )

    async def attempt(path: str | None, visitor: Visitor) -> tuple[object, str]:
        return await answer(engine, path, visitor.head)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    drop.upload(add, [drop, name, visitor], [visitor, members, drop], concurrency_limit=engine.threads, **private)
    members.select(take_out, visitor, [visitor, members], **private)
    example.click(use_samples, visitor, [visitor, members], **private)
    reset.click(start_over, visitor, [visitor, name, members, report, table, download, trial, photo, heads], **private)
    fit.click(learn, visitor, [visitor, report, table, download, trial, heads], concurrency_limit=1, **private).success(
        attempt, [photo, visitor], [label, note], **private
    )
    photo.change(
        attempt,
        [photo, visitor],
        [label, note],
        concurrency_limit=engine.threads,
        trigger_mode="always_last",
        **private,
    )


def _wall(visitor: Visitor) -> gr.Gallery:
    captioned = [(member.thumbnail, member.label) for member in visitor.members]
    return gr.Gallery(captioned, selected_index=None)


async def _fit(engine: Engine, members: Sequence[Photo]) -> Fit:
    """A head on the photos of `members`. Raises LeapZooError, Refused."""
    photos: dict[str, list[str]] = {}
    for member in members:
        photos.setdefault(member.label, []).append(member.path)
    if len(photos) < 2:
        raise InvalidArgument("a head needs at least two classes with a photo each: add photos")
    return await engine.slow.run(lambda: leap_zoo.fit(engine.models.default, photos))


def _report(found: Fit, members: Sequence[Photo]) -> str:
    """The head's cross-validated accuracy, as Markdown."""
    notes = [*found.notes, *(f"{name}: {text}" for name, text in found.bad.items())]
    text = Template(_FIT, trim_blocks=True, lstrip_blocks=True).render(fit=found, notes=notes)
    for member in members:  # show the visitor's names instead of the server's paths
        text = text.replace(member.path, member.name)
    use = f"Use it at home: `leap-zoo classify photo.jpg --model {found.head.card.model} --head {HEAD_FILE}`"
    return f"{escape(text, quote=False)}\n\n{use}"


def _file_of(found: Fit) -> str:
    """The head as a file in Gradio's folder; Gradio deletes it within two hours."""
    path = Path(tempfile.mkdtemp(dir=get_upload_folder())) / HEAD_FILE
    path.write_bytes(encode_head(found.head))
    return str(path)
