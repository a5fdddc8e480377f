"""The panels that pictures of trainings are made of: colours, markers, and what each axis says."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from train.history import History

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that white swallows.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
COLOURS = {
    "leap": VERMILION,
    "leap-budget": BLUE,
    "linear": GREEN,
    "fixed": PURPLE,
    "last": BLACK,
    "last-two": SKY,
    "one-to-one": ORANGE,
}
# Why the target moved: marker, colour, and what it means to a newcomer.
REASONS = {
    "start": ("s", BLACK, "start"),
    "calibration": ("D", BLACK, "calibration: the block most like the fresh student"),
    "similarity": ("*", GREEN, "similarity: the student had come close enough"),
    "timeout": ("X", VERMILION, "timeout: the longest stay on a block was over"),
    "budget": ("o", BLUE, "budget: the block's share of the steps was used up"),
    "schedule": ("^", SKY, "schedule: by the step count alone"),
    "retreat": ("v", PURPLE, "retreat: back, the student had lost touch"),
}
STYLE: dict[str, Any] = {
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
    "legend.framealpha": 0.9,
    "svg.fonttype": "none",
    "svg.hashsalt": "leap-zoo",  # the same picture is the same file
}
KINDS = {"cls": ("-", "CLS token"), "patch_mean": ("--", "mean of the patch tokens")}
WINDOW = 7  # logged steps on either side, at most, in the line through noisy points


def percent(axis: Any) -> None:
    """Label shares 0..1 in per cent."""
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.4g} %"))


def loss(axes: Axes, history: History, colour: str, label: str | None = None) -> None:
    """Loss over steps: each logged step as a point, and a running mean that starts anew with each target."""
    axes.set_title(
        "Loss (jumps where the target moves: another block is another scale)" if len(history.targets) > 1 else "Loss"
    )
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(f"{history.recipe.loss.distance} on {history.recipe.loss.targets} features")
    steps = [row.step for row in history.log]
    axes.plot(steps, [row.loss for row in history.log], ".", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
    axes.plot(steps, _smooth(history, "loss"), color=colour, linewidth=1.5, label=label)


def similarity(axes: Axes, history: History, colour: str | None = None, label: str | None = None) -> None:
    """Similarity of student and target over steps, in `colour`, or coloured by target block with a bar that says so."""
    kind = {"cka": "CKA", "cosine": "cosine", "recoverability": "recoverability"}[history.recipe.curriculum.similarity]
    axes.set_title("Similarity of student and target" + ("" if colour else ", coloured by target block"))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(f"{kind} (1 = alike)")
    steps = [row.step for row in history.log]
    smooth = _smooth(history, "similarity")
    if colour:
        axes.plot(steps, smooth, color=colour, linewidth=1.5, label=label)
        return
    deepest = max([row.block for row in history.log] + [block for _, block in history.targets], default=1)
    shades = max(deepest, 2)  # a bar needs two
    norm = BoundaryNorm([block + 0.5 for block in range(shades + 1)], shades)
    # Viridis tells blocks apart in grey and to colour-blind readers; its yellow end is left out, white swallows it.
    depths = ListedColormap([colormaps["viridis"](0.92 * block / (shades - 1)) for block in range(shades)])
    values = [row.similarity for row in history.log]
    points = {"c": [row.block for row in history.log], "cmap": depths, "norm": norm, "linewidths": 0}
    axes.scatter(steps, values, s=10, **points)
    axes.plot(steps, smooth, color="#444444", linewidth=0.8, alpha=0.7)
    scale = axes.figure.colorbar(ScalarMappable(norm, depths), ax=axes, pad=0.01)
    scale.set_label("target block of the teacher")
    scale.set_ticks(range(1, shades + 1, max(1, shades // 12)))
    scale.minorticks_off()
    threshold = getattr(history.recipe.curriculum, "threshold", None)
    if threshold is not None:
        axes.axhline(threshold, color=GREEN, linestyle=":", linewidth=1.2, label=f"moves on at {threshold:g}")
        axes.legend(loc="best")


def target(axes: Axes, history: History, colour: str, label: str | None = None, *, reasons: bool = True) -> None:
    """The target block over steps, as a staircase; with `reasons`, a marker at each move that says why."""
    axes.set_title("Target block of the teacher" + (", and why it moved" if reasons else ""))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("block (1 = first)")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if not history.targets:
        return
    steps = [step for step, _ in history.targets] + [history.steps]
    blocks = [block for _, block in history.targets] + [history.targets[-1][1]]
    axes.set_ylim(min(0.5, axes.get_ylim()[0]), max(max(blocks) + 0.7, axes.get_ylim()[1]))
    axes.plot(steps, blocks, drawstyle="steps-post", color=colour, linewidth=1.5, label=label, zorder=2)
    for reason, (marker, paint, meaning) in REASONS.items() if reasons else ():
        moves = [move for move in history.moves if move.reason == reason]
        if moves:
            places = [move.step for move in moves], [move.block for move in moves]
            size = 12 if marker == "*" else 7
            axes.plot(*places, marker, color=paint, markersize=size, label=meaning, zorder=3, clip_on=False)
    if reasons and history.moves:
        axes.legend(loc="lower right")


def neighbours(axes: Axes, history: History, colour: str, label: str | None = None, marker: str = ".") -> None:
    """10-NN accuracy on the monitor's part of the training photos over epochs; of a run alone with 95 % intervals."""
    axes.set_title("10-NN accuracy on a tenth of the training photos" + ("" if label else ", with 95 % intervals"))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("right answers")
    percent(axes.yaxis)
    for kind, (line, meaning) in KINDS.items():
        rows = [row for row in history.monitor if row.metric == f"10-NN, {kind}"]
        if not rows:
            continue
        epochs = [row.epoch for row in rows]
        name = f"{label}, {meaning}" if label else f"{meaning} (n = {rows[0].n})"
        axes.plot(epochs, [row.value for row in rows], line, color=colour, marker=marker, label=name)
        if not label:
            low, high = [row.low for row in rows], [row.high for row in rows]
            axes.fill_between(epochs, low, high, color=colour, alpha=0.1, linewidth=0)


def explain_lines(axes: Axes) -> None:
    """Say which line is CLS and which the mean of patches, where colours stand for runs."""
    lines = [Line2D([], [], linestyle=line, color="#444444", label=meaning) for line, meaning in KINDS.values()]
    axes.legend(handles=lines, loc="best")


def mark_moves(axes: Axes, history: History) -> None:
    """Thin lines where the target moved, so that the panels can be read together."""
    for step, _ in history.targets[1:]:
        axes.axvline(step, color="#999999", linewidth=0.6, alpha=0.6, zorder=0)


def nothing_yet(axes: Axes, text: str) -> None:
    """Say why a panel is empty."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#666666")


def _smooth(history: History, field: str) -> list[float]:
    """A centred running mean of a column of the log, which no stretch of one target block shares with another.

    What is no finite number is left out of the mean.
    """
    smooth: list[float] = []
    wide = min(WINDOW, len(history.log) // 50)  # of a short log, every step is worth showing
    for _, rows in groupby(history.log, key=lambda row: row.block):
        values = [getattr(row, field) for row in rows]
        for place in range(len(values)):
            near = [v for v in values[max(0, place - wide) : place + wide + 1] if math.isfinite(v)]
            smooth.append(sum(near) / len(near) if near else math.nan)
    return smooth
