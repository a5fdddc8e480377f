"""Pictures of trainings: `python -m train.plot RUN [RUN ...] [--out FILE]`, and strategies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that white swallows.
COLOURS = {
    "leap": "#D55E00",
    "leap-budget": "#0072B2",
    "linear": "#009E73",
    "fixed": "#CC79A7",
    "last": "#000000",
    "last-two": "#56B4E9",
    "one-to-one": "#E69F00",
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
    "svg.fonttype": "none",
    "svg.hashsalt": "leap-zoo",  # the same picture is the same file
}


def strategies_figure(rows: Sequence[dict[str, Any]], path: Path) -> Figure:
    """Draw an experiment as small multiples, one panel per column: a dot per seed, a bar at each strategy's mean.

    rows: a dict per run, with `strategy`, `seed` and the same columns of figures in each (None where there is none).
    All panels list the strategies in one order, that of the first column's means, best on top; the dashed line is the
    mean of `last`. A column of values within -1..1 is read as shares and labelled in per cent. Written to `path`
    (.png, .svg or .pdf); the figure is returned. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("there is no run to draw")
    columns = [key for key in rows[0] if key not in ("strategy", "seed")]
    order = sorted({row["strategy"] for row in rows}, key=lambda name: _mean(rows, name, columns[0]))  # best on top
    wide = min(4, len(columns))
    high = -(-len(columns) // wide)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.4 + 2.6 * wide, high * (1.0 + 0.32 * len(order)) + 0.7), layout="constrained")
        panels = figure.subplots(high, wide, sharey=True, squeeze=False).ravel()
        for axes, column in zip(panels, columns, strict=False):
            _strategies_panel(axes, rows, column, order)
        for axes in panels[len(columns) :]:
            axes.set_visible(False)
        seeds = len({row["seed"] for row in rows})
        figure.suptitle(
            f"Strategies at equal epochs: a dot per seed ({seeds}), | their mean, dashed the mean of `last`",
            fontsize=11,
        )
        figure.savefig(path, dpi=150, metadata=_undated(path))
    return figure


def _strategies_panel(axes: Axes, rows: Sequence[dict[str, Any]], column: str, order: list[str]) -> None:
    axes.set_title(column)
    values = [float(row[column]) for row in rows if row.get(column) is not None]
    if "last" in order and (reference := _mean(rows, "last", column)) > -float("inf"):
        axes.axvline(reference, color=COLOURS["last"], linestyle="--", linewidth=1)
    for place, strategy in enumerate(order):
        mine = [float(row[column]) for row in rows if row["strategy"] == strategy and row.get(column) is not None]
        colour = COLOURS.get(strategy, "#666666")
        axes.plot(mine, [place] * len(mine), "o", color=colour, alpha=0.6, markeredgewidth=0, label=strategy)
        if mine:
            axes.plot([sum(mine) / len(mine)], [place], "|", color=colour, markersize=16, markeredgewidth=2.5)
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=4)
    if all(abs(value) <= 1 for value in values):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.4g} %"))


def _mean(rows: Sequence[dict[str, Any]], strategy: str, column: str) -> float:
    values = [float(row[column]) for row in rows if row["strategy"] == strategy and row.get(column) is not None]
    return sum(values) / len(values) if values else -float("inf")


def _undated(path: Path) -> dict[str, None] | None:
    return {"Date": None} if path.suffix == ".svg" else None
