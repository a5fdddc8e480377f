"""The tab Your classes: drop a few photos per class, fit a head on them, try it, take it home."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr
from gradio.events import EventData

import leap_zoo
from leap_zoo import InvalidArgument, LeapZooError
from leap_zoo.fitting import Fit
from serve.demo import bars, fit_report
from serve.demo.backend import Backend, explain
from serve.demo.classify_tab import ClassifyTab
from serve.demo.gathering import gather
from serve.demo.markup import TRIGGER_CLICK, clicked, note, thumbnails
from serve.demo.samples import of_group
from serve.demo.uploads import photo_input, photos_input, read_upload
from serve.demo.visitor import MAX_CLASSES, MAX_PHOTOS_PER_CLASS, Member, Visitor
from serve.problems import Refused

SHOWN_AT_FIRST = 2
EXAMPLE = ("taxi", "coffee", "pier")
MAX_NAME = 60
_GONE = "has been deleted meanwhile: drop it again"


@dataclass(frozen=True)
class _Slot:
    """One class on the page."""

    box: gr.Column
    name: gr.Textbox
    drop: gr.File
    seen: gr.HTML


def build(backend: Backend, visitor: gr.State, classify: ClassifyTab) -> None:
    """Lay the tab out inside the present container."""
    gr.HTML(
        "<p class='leap-lead'>Show the model a few photos of each of your own classes. It learns to tell them apart in "
        "a second or two, on this server's CPU. Five to ten photos per class are a good start. Click a photo to take "
        "it out again.</p>"
    )
    shown = gr.State(SHOWN_AT_FIRST)
    with gr.Row(elem_classes="leap-classes"):
        slots = [_slot(number) for number in range(MAX_CLASSES)]
    with gr.Row(elem_classes="leap-buttons"):
        fit = gr.Button("Fit", variant="primary", elem_id="leap-fit")
        more = gr.Button("Add a class", elem_id="leap-more")
        example = gr.Button("Fill in sample photos", elem_id="leap-example")
        reset = gr.Button("Start over", elem_id="leap-reset")
    report = gr.HTML(fit_report.NOTHING_FITTED, elem_id="leap-fitted", elem_classes="leap-panel")
    with gr.Row(visible=False, equal_height=False, elem_classes="leap-stage") as trial:
        with gr.Column(min_width=300):
            photo = photo_input("Try it on another photo", "leap-try", 300)
        with gr.Column(min_width=300):
            answer = gr.HTML(bars.NO_PHOTO, elem_id="leap-tried", elem_classes="leap-panel")

    def show_more(number: int) -> list[object]:
        number = min(number + 1, MAX_CLASSES)
        return [number, gr.update(interactive=number < MAX_CLASSES), *_boxes(number)]

    def fill(visitor: Visitor) -> list[object]:
        for slot, group in enumerate(EXAMPLE):
            visitor.classes[slot] = [Member(one.name, one.thumbnail, str(one.path)) for one in of_group(group)]
        for slot in range(len(EXAMPLE), MAX_CLASSES):
            visitor.classes[slot] = []
        names = [*EXAMPLE, *[""] * (MAX_CLASSES - len(EXAMPLE))]
        seen = map(_seen, visitor.classes)
        return [visitor, len(EXAMPLE), *_boxes(len(EXAMPLE)), *names, *seen, _report_now(visitor)]

    def start_over(visitor: Visitor) -> list[object]:
        visitor.classes = [[] for _ in range(MAX_CLASSES)]
        visitor.head = None
        texts = [fit_report.NOTHING_FITTED, gr.update(visible=False), None, bars.NO_PHOTO]
        head = classify.offer(backend, visitor) | {"value": backend.card.default_head}
        blank = [""] * MAX_CLASSES
        return [visitor, SHOWN_AT_FIRST, *_boxes(SHOWN_AT_FIRST), *blank, *blank, *texts, head]

    async def learn(visitor: Visitor, *names: str) -> list[object]:
        try:
            found, seconds = await _fit(backend, visitor, names)
        except (LeapZooError, Refused) as error:
            return [visitor, fit_report.refusal(explain(error)), gr.skip(), gr.skip()]
        visitor.head = found.head
        return [visitor, fit_report.report(found, seconds), gr.update(visible=True), classify.offer(backend, visitor)]

    async def attempt(path: str | None, visitor: Visitor) -> str:
        if path is None or visitor.head is None:
            return bars.NO_PHOTO
        try:
            tried = await backend.classify(read_upload(path), visitor.head)
        except (LeapZooError, Refused) as error:
            return bars.refusal(explain(error))
        return bars.bars(tried, backend.model.artifact.precision)

    private = {"api_visibility": "private", "show_progress": "hidden"}
    boxes, names = [slot.box for slot in slots], [slot.name for slot in slots]
    seen = [slot.seen for slot in slots]
    for number, slot in enumerate(slots):
        slot.drop.upload(
            _adding(backend, number),
            [slot.drop, visitor],
            [visitor, slot.seen, slot.drop, report],
            concurrency_limit=backend.threads,
            api_visibility="private",
            show_progress_on=slot.drop,
        )
        slot.seen.click(_taking_out(number), visitor, [visitor, slot.seen, report], **private)
    more.click(show_more, shown, [shown, more, *boxes], **private)
    example.click(fill, visitor, [visitor, shown, *boxes, *names, *seen, report], **private)
    reset.click(
        start_over,
        visitor,
        [visitor, shown, *boxes, *names, *seen, report, trial, photo, answer, classify.head],
        **private,
    )
    fit.click(
        learn,
        [visitor, *names],
        [visitor, report, trial, classify.head],
        concurrency_limit=1,
        api_visibility="private",
        show_progress_on=report,
    ).then(attempt, [photo, visitor], answer, **private)
    photo.change(
        attempt,
        [photo, visitor],
        answer,
        concurrency_limit=backend.threads,
        trigger_mode="always_last",
        api_visibility="private",
        show_progress="minimal",
    )


def _slot(number: int) -> _Slot:
    with gr.Column(min_width=260, visible=number < SHOWN_AT_FIRST, elem_classes="leap-class") as box:
        name = gr.Textbox(
            label=f"Class {number + 1}",
            placeholder="its name",
            max_length=MAX_NAME,
            elem_id=f"leap-name-{number + 1}",
        )
        drop = photos_input("Its photos", f"leap-drop-{number + 1}")
        seen = gr.HTML("", js_on_load=TRIGGER_CLICK, elem_id=f"leap-seen-{number + 1}", elem_classes="leap-members")
    return _Slot(box, name, drop, seen)


def _boxes(shown: int) -> list[dict[str, object]]:
    return [gr.update(visible=number < shown) for number in range(MAX_CLASSES)]


def _seen(members: list[Member], notes: tuple[str, ...] = ()) -> str:
    titled = [(member.key, f"Take out {member.name}", member.thumbnail) for member in members]
    pictures = thumbnails("Photos of this class", titled) if members else ""
    return pictures + "".join(note(text, alert=True) for text in notes)


def _adding(backend: Backend, number: int) -> Callable[..., object]:
    async def add(paths: list[str], visitor: Visitor) -> tuple[Visitor, object, object, object]:
        if not paths:
            return visitor, gr.skip(), gr.skip(), gr.skip()
        members = visitor.classes[number]
        try:
            good, notes = await gather(backend, paths, MAX_PHOTOS_PER_CLASS - len(members))
        except Refused as error:
            good, notes = [], [explain(error)]
        members += [Member(one.name, one.thumbnail, one.path) for one in good]
        return visitor, _seen(members, tuple(notes)), None, _report_now(visitor)

    return add


def _taking_out(number: int) -> Callable[..., object]:
    def take_out(event: EventData, visitor: Visitor) -> tuple[Visitor, object, object]:
        members = visitor.classes[number]
        gone = next((member for member in members if member.key == clicked(event)), None)
        if gone is not None:
            members.remove(gone)
        return visitor, _seen(members), _report_now(visitor)

    return take_out


def _report_now(visitor: Visitor) -> object:
    """Once the photos have changed: an earlier refusal no longer holds, but what was fitted stays to be read."""
    return gr.skip() if visitor.head else fit_report.NOTHING_FITTED


async def _fit(backend: Backend, visitor: Visitor, names: tuple[str, ...]) -> tuple[Fit, float]:
    """A head on the visitor's photos, and the seconds that took. Raises LeapZooError, Refused."""
    photos: dict[str, list[str]] = {}
    called: dict[str, str] = {}
    for number, (name, members) in enumerate(zip(names, visitor.classes, strict=True), 1):
        if members:
            label = " ".join(name.split())[:MAX_NAME] or f"class {number}"
            photos.setdefault(label, []).extend(member.path for member in members)
            called |= {member.path: member.name for member in members}
    if len(photos) < 2:
        raise InvalidArgument("two classes with a photo each are the least: add some")

    def work() -> tuple[Fit, float]:
        start = time.perf_counter()
        found = leap_zoo.fit(backend.model, photos)
        return found, time.perf_counter() - start

    found, seconds = await backend.fit(work)
    bad = {called[path]: _GONE if path in text else text for path, text in found.bad.items()}
    notes = [_named(text, called) for text in found.notes]
    return Fit(found.head, found.classes, found.confusions, found.learned, bad, notes), seconds


def _named(text: str, called: dict[str, str]) -> str:
    """A note with the visitor's names of the photos in place of the server's paths."""
    for path, name in called.items():
        text = text.replace(path, name)
    return text
