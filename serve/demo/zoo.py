"""The tab Zoo: the models, the figures measured on each file, and the files to download."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr
from jinja2 import Environment, StrictUndefined

from leap_zoo import ModelCard
from leap_zoo.card import Metric
from serve.api.zoo import Shelf
from serve.engine import Engine

_MODELS, _CARD = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("models.md", "card.md"))
_KINDS = {"onnx": "ONNX", "openvino": "OpenVINO", "executorch": "ExecuTorch"}


def build(engine: Engine, shelf: Shelf) -> None:
    """Lay out the tab in the current container. shelf: the models that can be downloaded."""
    served = {model.card.id: model.card for model in engine.models.all()}
    # The served ones are first, and of the revision that is served: a zoo that is handed on may have another.
    cards, default = served | shelf.cards | served, next(iter(served))
    gr.Markdown(_page(shelf).from_string(_MODELS).render(cards=cards.values()), elem_id="leap-models")
    choice = gr.Radio(list(cards), value=default, label="Model", visible=len(cards) > 1, elem_id="leap-model")
    shown = gr.Markdown(about(shelf, cards[default]), elem_id="leap-card")
    choice.change(
        lambda name: about(shelf, cards[name]), choice, shown, show_progress="hidden", api_visibility="private"
    )


def about(shelf: Shelf, card: ModelCard) -> str:
    """The description, the files with their digests and links, the figures, the training and the licenses: Markdown."""
    return _page(shelf).from_string(_CARD).render(card=card, terms=card.licences, kinds=_KINDS)


def _page(shelf: Shelf) -> Environment:
    page = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)  # Markdown: escaped by `plain`
    page.filters |= {"plain": _plain, "figure": _figure}
    page.tests["offered"] = lambda file, model: shelf.offers(model, file.file, file.sha256)
    return page


def _figure(metric: Metric) -> str:
    """Its value and its 95 % interval."""
    form = "{:.4g}" if "cosine" in metric.name else "{:.1%}"
    interval = f" ({form} to {form})".format(*metric.interval) if metric.interval else ""
    return form.format(metric.value) + interval


def _plain(text: str) -> str:
    """A card's text, with all markup escaped."""
    escaped = escape(text, quote=False)
    return "".join(f"\\{sign}" if sign in "\\`*_[]#|" else sign for sign in escaped)
