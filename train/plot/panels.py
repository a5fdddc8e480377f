"""The panels that pictures of trainings are made of: colours, markers, and what each axis says."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from train.plot.history import History

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that white swallows.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
REASONS = {  # why the target moved: a marker, and what it means to a newcomer
    "start": ("s", "start"),
    "calibration": ("D", "calibration: most similar to the fresh student"),
    "similarity": ("*", "similarity: high enough"),
    "timeout": ("X", "timeout: the longest stay was over"),
    "plateau": ("P", "plateau: the similarity stopped rising"),
    "budget": ("o", "budget: the block's share of the steps was used up"),
}
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
    "legend.framealpha": 0.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "leap-zoo",  # the same picture is the same file
}
KINDS = {"cls": ("o", "CLS token"), "patch_mean": ("^", "mean of the patch tokens")}
WINDOW = 7  # logged steps on either side, at most, in the line through noisy points


def logged(axes: Axes, history: History, field: str, look: dict[str, Any]) -> None:
    """A column of the log over steps: the rows as points, and a running mean that starts anew with each target."""
    steps, values = [row.step for row in history.log], [getattr(row, field) for row in history.log]
    axes.plot(steps, values, ".", color=look["color"], alpha=0.35, markersize=4, markeredgewidth=0)
    axes.plot(steps, _smooth(history, field), **look)


def target(axes: Axes, history: History, look: dict[str, Any]) -> None:
    """The target block over steps, as a staircase, with a marker at each move that says why."""
    steps, blocks = zip(*history.targets, (history.steps, history.targets[-1][1]), strict=True)
    axes.plot(steps, blocks, drawstyle="steps-post", **look)
    axes.set_ylim(0.5, max(*blocks, axes.get_ylim()[1] - 0.7) + 0.7)
    for reason, (marker, _) in REASONS.items():
        moves = [move for move in history.moves if move.reason == reason]
        if moves:
            places = [move.step for move in moves], [move.block for move in moves]
            axes.plot(*places, marker, color=look["color"], markersize=8, label=f"_{reason}", clip_on=False)


def neighbours(axes: Axes, history: History, look: dict[str, Any], *, intervals: bool) -> None:
    """10-NN accuracy on the monitor's part of the training photos over epochs, with 95 % intervals if asked for."""
    for kind, (marker, _) in KINDS.items():
        rows = [row for row in history.monitor if row.metric == f"10-NN, {kind}"]
        epochs = [row.epoch for row in rows]
        axes.plot(epochs, [row.value for row in rows], marker=marker, clip_on=False, **{**look, "label": f"_{kind}"})
        if intervals:
            low, high = [row.low for row in rows], [row.high for row in rows]
            axes.fill_between(epochs, low, high, color=look["color"], alpha=0.1, linewidth=0)


def explain(axes: Axes, meanings: dict[str, str]) -> None:
    """A legend of markers, whatever the colours: marker -> meaning."""
    look: dict[str, Any] = {"linestyle": "", "color": "#444444"}
    axes.legend(handles=[Line2D([], [], marker=marker, label=text, **look) for marker, text in meanings.items()])


def nothing_yet(axes: Axes, text: str) -> None:
    """Say why a panel is empty."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#666666")


def _smooth(history: History, field: str) -> list[float]:
    """A centred running mean of a column of the log, which no stretch of one target block shares with another.

    Values that are not finite are left out of the mean.
    """
    smooth: list[float] = []
    wide = min(WINDOW, len(history.log) // 50)  # of a short log, every step is worth showing
    for _, rows in groupby(history.log, key=lambda row: row.block):
        values = [getattr(row, field) for row in rows]
        for place in range(len(values)):
            near = [v for v in values[max(0, place - wide) : place + wide + 1] if math.isfinite(v)]
            smooth.append(sum(near) / len(near) if near else math.nan)
    return smooth
