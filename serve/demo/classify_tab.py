"""The tab Classify: a photo in, its classes out, by the served file and by the other one where both are here."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.events import EventData

from leap_zoo import CustomHead, LeapZooError
from serve.demo import bars
from serve.demo.backend import Backend, explain
from serve.demo.markup import TRIGGER_CLICK, clicked, note, thumbnails
from serve.demo.samples import samples
from serve.demo.uploads import photo_input, read_upload
from serve.demo.visitor import Visitor
from serve.problems import Refused

OWN = "*own"  # no head of a card can be called so
SHOWN = ("elephant-1", "taxi-1", "coffee-1", "turtle-1", "pier-1", "balloon-1")
ONE_FILE = (
    "Only the {} file of this model is on this server, so there is no second one to compare with. A zoo that holds "
    "both (LEAP_ZOO_URL) shows them side by side."
)


@dataclass(frozen=True)
class ClassifyTab:
    """The parts that other tabs reach: which head is chosen, and how to offer the visitor's own."""

    head: gr.Radio

    def offer(self, backend: Backend, visitor: Visitor) -> dict[str, object]:
        """The choice of heads, with the visitor's own when there is one."""
        return gr.update(choices=_choices(backend, visitor.head), visible=True)


def build(backend: Backend, visitor: gr.State) -> ClassifyTab:
    """Lay the tab out inside the present container."""
    heads = _choices(backend, None)
    with gr.Row(equal_height=False, elem_classes=["leap-stage", "leap-classify"]):
        with gr.Column(min_width=300):
            photo = photo_input("Your photo", "leap-photo", 340)
            gr.HTML("<p class='leap-hint'>No photo at hand? Take one of these:</p>", elem_id="leap-hint")
            chosen = [(name, samples()[name].name, samples()[name].thumbnail) for name in SHOWN]
            strip = gr.HTML(thumbnails("Sample photos", chosen), js_on_load=TRIGGER_CLICK, elem_id="leap-samples")
            head = gr.Radio(
                heads,
                value=backend.card.default_head,
                label="Classes to choose from",
                info="A head names one of its own classes, whatever is on the photo. Fit others under Your classes.",
                visible=len(heads) > 1,
                elem_id="leap-head",
            )
        with gr.Column(min_width=300):
            result = gr.HTML(bars.NO_PHOTO, elem_id="leap-result", elem_classes="leap-panel")
            if backend.other is None:
                gr.HTML(note(ONE_FILE.format(backend.model.artifact.precision)), elem_id="leap-aside")

    async def show(path: str | None, name: str, visitor: Visitor) -> str:
        return await _show(backend, path, name, visitor)

    private = {"api_visibility": "private"}
    strip.click(sample_path, None, photo, show_progress="hidden", **private)
    gr.on(
        [photo.change, head.change],
        show,
        [photo, head, visitor],
        result,
        concurrency_limit=backend.threads,
        trigger_mode="always_last",
        show_progress="minimal",
        **private,
    )
    return ClassifyTab(head)


def sample_path(event: EventData) -> str | dict[str, object]:
    """The file of the sample whose thumbnail was clicked."""
    sample = samples().get(clicked(event))
    return str(sample.path) if sample else gr.skip()


async def _show(backend: Backend, path: str | None, name: str, visitor: Visitor) -> str:
    """The bars for the photo at `path`, or what is wrong with it."""
    if path is None:
        return bars.NO_PHOTO
    head = visitor.head if name == OWN and visitor.head is not None else name
    served = backend.model.artifact.precision
    try:
        photo = read_upload(path)
        alone = await backend.classify(photo, head)
    except (LeapZooError, Refused) as error:
        return bars.refusal(explain(error))
    if backend.other is None:
        return bars.bars(alone, served)
    try:
        answer, other = await backend.compare(photo, head, backend.other)
    except (
        LeapZooError,
        Refused,
    ):  # the server is busy, or holds one model only: the photo has its answer all the same
        return bars.bars(alone, served)
    return bars.compared(answer, served, other, backend.other)


def _choices(backend: Backend, own: CustomHead | None) -> list[tuple[str, str]]:
    heads = sorted(backend.card.heads, key=lambda head: head.name != backend.card.default_head)
    choices = [(f"{head.name} · {len(head.labels):,} classes", head.name) for head in heads]
    return choices if own is None else [*choices, (f"your own · {len(own.labels):,} classes", OWN)]
