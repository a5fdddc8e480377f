"""The tab How it learned: the curriculum of the served student, move by move."""

from __future__ import annotations

from html import escape

import gradio as gr

from leap_zoo import ModelCard
from leap_zoo.card import Training
from serve.demo.curriculum import PLAY, figure
from serve.demo.markup import chips, empty, percent

NO_CURRICULUM = empty("Not known", "The card of this model does not say how it was trained.")
MOVED = (
    "The target was one of the teacher's inner blocks at first, an easy one, and moved to deeper blocks as training "
    "went on. Blocks above the target need not run."
)
STAYED = "The target was block {} all the time: the fresh student was already nearest to it."


def build(card: ModelCard) -> None:
    """Lay the tab out inside the present container."""
    training = card.training
    if training is None or not training.curriculum:
        gr.HTML(NO_CURRICULUM)
        return
    gr.HTML(_words(card, training))
    gr.HTML(figure(training), js_on_load=PLAY, elem_id="leap-curriculum")


def _words(card: ModelCard, training: Training) -> str:
    facts = [
        f"strategy {training.strategy}",
        f"{training.epochs:g} epochs",
        f"{percent(training.teacher_flops_saved)} of the teacher's FLOPs saved",
    ]
    target = MOVED if len(training.curriculum) > 1 else STAYED.format(training.curriculum[0].block)
    return (
        f"<p class='leap-lead'>{escape(card.id)} learned from a larger network, {escape(training.teacher.name)}, that "
        f"never changed. {target}</p>{chips(facts)}"
    )
