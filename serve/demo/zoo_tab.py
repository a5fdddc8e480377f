"""The tab Zoo: the card of every model that is at hand, and its files to take home."""

from __future__ import annotations

import gradio as gr

from leap_zoo import ModelCard
from leap_zoo.card import File
from serve.demo.cards import card_view
from serve.demo.curriculum import figure
from serve.shelf import Shelf

FILES = "../zoo"
"""Where the zoo's files are served, seen from the page."""

BROWSER = "../browser/"
"""Where the page is that runs a model in the browser."""


def build(cards: list[ModelCard], shelf: Shelf) -> None:
    """Lay the tab out inside the present container. cards: the served model's first; shelf: what can be downloaded."""
    by_id = {card.id: card for card in cards}
    choice = gr.Radio(list(by_id), value=cards[0].id, label="Model", visible=len(cards) > 1, elem_id="leap-model")
    view = gr.HTML(_view(cards[0], shelf), elem_id="leap-zoo")

    def show(name: str) -> str:
        return _view(by_id[name], shelf)

    choice.change(show, choice, view, show_progress="hidden", api_visibility="private")


def _view(card: ModelCard, shelf: Shelf) -> str:
    def offered(file: File) -> bool:
        return shelf.offers(card.id, file.file, file.sha256)

    drawn = figure(card.training, still=True) if card.training and card.training.curriculum else ""
    return card_view(card, FILES, offered, browser=BROWSER) + (f"<h3>Its curriculum</h3>{drawn}" if drawn else "")
