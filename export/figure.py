"""The curriculum of a model as a picture: which block of the teacher was the target, and why it moved."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leap_zoo.card import CurriculumStep, ModelCard

FILE = "curriculum.svg"  # of a model's folder, beside its README

# Marker, colour (Okabe and Ito's, which colour-blind readers can tell apart) and meaning, as in `train.panels`.
REASONS = {
    "start": ("s", "#000000", "start"),
    "calibration": ("D", "#000000", "calibration: the block most like the fresh student"),
    "similarity": ("*", "#009E73", "similarity: the student had come close enough"),
    "timeout": ("X", "#D55E00", "timeout: the longest stay on a block was over"),
    "budget": ("o", "#0072B2", "budget: the block's share of the steps was used up"),
    "schedule": ("^", "#56B4E9", "schedule: by the step count alone"),
    "retreat": ("v", "#CC79A7", "retreat: back, the student had lost touch"),
}
OTHER = ("P", "#E69F00")  # of a reason that is none of these
GREY = "#666666"
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar in a name is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # text stays text: small, and searchable
    "svg.hashsalt": "leap-zoo",  # the same card gives the same file
}
METADATA = {"Date": None, "Creator": "leap-zoo"}


def draw(card: ModelCard) -> bytes | None:
    """The curriculum as SVG, the same bytes for the same card; None when the card tells of none."""
    if card.training is None or not card.training.curriculum:
        return None
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):  # whatever the user's matplotlibrc says
        picture = io.BytesIO()
        title = f"{card.id}: the target block of {card.training.teacher.name}, and why it moved"
        _figure(card.training.curriculum, title).savefig(picture, format="svg", metadata=METADATA)
    return picture.getvalue()


def _figure(moves: list[CurriculumStep], title: str) -> Figure:
    figure = Figure(figsize=(7.5, 4.4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("target block (1 = first)")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    steps, blocks = [move.step for move in moves], [move.block for move in moves]
    axes.set_ylim(0.5, max(blocks) + 0.7)
    axes.plot(steps, blocks, drawstyle="steps-post", color=GREY, linewidth=1.5, zorder=2)
    # The card does not say when training ended: an open end, about as long as a usual stay.
    end = steps[-1] + max(1, (steps[-1] - steps[0]) / max(1, len(moves) - 1))
    axes.plot(
        [steps[-1], end], [blocks[-1]] * 2, ":", color=GREY, linewidth=1.5, label="to the end of the training", zorder=2
    )
    for reason in sorted(
        {move.reason for move in moves}, key=lambda reason: ([*REASONS, reason].index(reason), reason)
    ):
        marker, colour, meaning = REASONS.get(reason, (*OTHER, reason))
        places = [(move.step, move.block) for move in moves if move.reason == reason]
        size = 12 if marker == "*" else 7
        axes.plot(*zip(*places, strict=True), marker, color=colour, markersize=size, label=meaning, zorder=3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
