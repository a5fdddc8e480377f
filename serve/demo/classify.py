"""The tab Classify: a photo in, its most likely classes out, or "Not sure"."""

from __future__ import annotations

import gradio as gr

from leap_zoo import CustomHead
from serve.demo.uploads import SAMPLES, UserError, Visitor, explain, photo_input, read_upload, sample_gallery
from serve.engine import Classified, Engine

TOP = 5
OWN = "*own"  # not a valid name for a head in a card
NO_PHOTO = "Drop a photo, choose a file, or paste from the clipboard."
NOT_SURE = "### Not sure\nThis photo is unlike the model's training photos. The scores are guesses."


def build(engine: Engine, visitor: gr.State) -> gr.Radio:
    """Lay out the tab in the current container. Returns the choice of heads, to which a visitor's head is added."""
    heads = head_choices(engine, None)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            photo = photo_input("Your photo", "leap-photo")
            head = gr.Radio(
                heads,
                value=engine.models.default.card.default_head or (heads[0][1] if heads else None),
                label="Classes",
                visible=len(heads) > 1,
                elem_id="leap-head",
            )
        with gr.Column(min_width=300):
            label = label_output("leap-label")
            note = gr.Markdown(NO_PHOTO, elem_id="leap-note")
    samples = sample_gallery("No photo at hand? Click one of these", "leap-samples", 6)

    async def show(path: str | None, name: str, visitor: Visitor) -> tuple[object, str]:
        return await answer(engine, path, visitor.head if name == OWN and visitor.head else name)

    samples.select(sample_path, None, photo, show_progress="hidden", api_visibility="private")
    gr.on(
        [photo.change, head.change],
        show,
        [photo, head, visitor],
        [label, note],
        concurrency_limit=engine.threads,
        trigger_mode="always_last",
        show_progress="minimal",
        api_visibility="private",
    )
    return head


def label_output(elem_id: str) -> gr.Label:
    """The output that shows the classes of a photo."""
    return gr.Label(label="Most likely classes", num_top_classes=TOP, elem_id=elem_id)


async def answer(engine: Engine, path: str | None, head: str | CustomHead | None) -> tuple[object, str]:
    """The values of the label and of the note below it, for the photo at `path`."""
    if path is None or head is None:
        return gr.update(value=None), NO_PHOTO
    try:
        found = await engine.classify([read_upload(path)], head=head, top=TOP)
    except UserError as error:  # replaces the last photo's classes, which a notice would leave on the page
        return gr.update(value=None), f"**This photo cannot be used.** {explain(error)}"
    return shown(found)


def shown(found: Classified) -> tuple[object, str]:
    """The label and the note for an answer. An unsure answer has no heading."""
    predictions = found.predictions[0]
    scores: dict[str, float] = {}
    for one in predictions:
        scores.setdefault(one.label, one.score)  # two classes of ImageNet have the label crane
    times = f"{found.precision}: inference {found.inference_ms:.1f} ms, decoding {found.decode_ms:.1f} ms."
    note = f"{NOT_SURE}\n\n{times}" if predictions.unsure else times
    return gr.update(value=scores, show_heading=not predictions.unsure), note


def sample_path(event: gr.SelectData) -> str | None:
    """The file of the sample that was clicked."""
    paths = list(SAMPLES.values())
    return str(paths[event.index]) if event.index in range(len(paths)) else None


def head_choices(engine: Engine, own: CustomHead | None) -> list[tuple[str, str]]:
    """The model's heads, its default first, and the visitor's own."""
    card = engine.models.default.card
    heads = sorted(card.heads, key=lambda head: head.name != card.default_head)
    choices = [(f"{head.name}, {len(head.labels):,} classes", head.name) for head in heads]
    return choices if own is None else [*choices, (f"your own, {len(own.labels):,} classes", OWN)]
