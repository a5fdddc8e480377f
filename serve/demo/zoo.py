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

_CARD = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
_KINDS = {"onnx": "ONNX", "openvino": "OpenVINO", "executorch": "ExecuTorch"}


def build(engine: Engine, shelf: Shelf) -> None:
    """Lay out the tab in the current container. shelf: the models that can be downloaded."""
    served, cards = engine.models.default.card, _cards(engine, shelf)
    _table(
        "Models on this server",
        "leap-models",
        {"Model": 120, "Parameters": 120, "Smallest file": 140, "Embedding": 140, "Download": 490},
        [_row(card) for card in cards.values()],
    )
    choice = gr.Radio(list(cards), value=served.id, label="Model", visible=len(cards) > 1, elem_id="leap-model")
    about = gr.Markdown(_about(shelf, served), elem_id="leap-card")
    metrics = _table(
        "Accuracy",
        "leap-metrics",
        {"Measured": 230, "Value": 85, "95 % interval": 150, "File": 120, "Photos": 85, "Data": 340},
        _metrics(served),
    )
    moves = _table(
        "How it learned: the teacher's block that it had to match, step by step",
        "leap-curriculum",
        {"Step": 80, "Target block": 140, "Similarity": 110, "Why": 680},
        _moves(served),
    )

    def show(name: str) -> tuple[str, list[list[object]], list[list[object]]]:
        return _about(shelf, cards[name]), _metrics(cards[name]), _moves(cards[name])

    choice.change(show, choice, [about, metrics, moves], show_progress="hidden", api_visibility="private")


def _table(label: str, elem_id: str, columns: dict[str, int], rows: list[list[object]]) -> gr.Dataframe:
    """columns: their headers and widths in pixels."""
    return gr.Dataframe(
        rows,
        headers=list(columns),
        column_widths=list(columns.values()),
        label=label,
        interactive=False,
        wrap=True,
        buttons=[],
        elem_id=elem_id,
    )


def _cards(engine: Engine, shelf: Shelf) -> dict[str, ModelCard]:
    """The cards of the models that are served, and then of those that can be downloaded only."""
    served = {model.card.id: model.card for model in engine.models.all()}
    return served | {model: card for model, card in shelf.cards.items() if model not in served}


def _row(card: ModelCard) -> list[object]:
    smallest = min(artifact.total_bytes for artifact in card.artifacts)
    dims = f"{card.embedding_dims.student} numbers"
    return [card.id, f"{card.parameters / 1e6:.1f} M", _size(smallest), dims, f"leap-zoo pull {card.id}"]


def _about(shelf: Shelf, card: ModelCard) -> str:
    """The description, the files with their digests and links, the training and the licenses, as Markdown."""
    page = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)  # Markdown: escaped by `plain`
    page.filters |= {"plain": _text, "size": _size}
    page.tests["offered"] = lambda file: shelf.offers(card.id, file.file, file.sha256)
    return page.from_string(_CARD).render(card=card, terms=card.licences, kinds=_KINDS)


def _metrics(card: ModelCard) -> list[list[object]]:
    """One row for each measurement of each file."""
    rows: list[list[object]] = []
    for artifact in card.artifacts:
        for metric in artifact.metrics:
            name = f"{metric.name} ({metric.head})" if metric.head else metric.name
            interval = " to ".join(_number(metric, value) for value in metric.interval or ())
            file = f"{artifact.precision} {_KINDS[artifact.format]}"
            data = f"{metric.dataset}, {metric.split}"
            rows.append([name, _number(metric, metric.value), interval, file, f"{metric.n:,}", data])
    return rows


def _number(metric: Metric, value: float) -> str:
    return f"{value:.4g}" if "cosine" in metric.name else f"{value:.1%}"


def _moves(card: ModelCard) -> list[list[object]]:
    if card.training is None:
        return []
    return [
        [move.step, move.block, "" if move.similarity is None else f"{move.similarity:.2f}", move.reason]
        for move in card.training.curriculum
    ]


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def _text(text: str) -> str:
    """A card's text, with all markup escaped."""
    escaped = escape(text, quote=False)
    return "".join(f"\\{sign}" if sign in "\\`*_[]#|" else sign for sign in escaped)
