"""The picture of a study: how far each change is from the baseline, by figure, with a dot per seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from train.plot.panels import COLOURS, STYLE
from train.plot.report import save
from train.research.page import at_cost
from train.research.results import Result

COSTS = {"epochs": "At equal epochs", "FLOPs": "At equal total FLOPs"}
Key = tuple[str, str, str]  # metric, data set, split
Points = list[tuple[int, float]]
ROOM = 0.8  # of the distance between two figures, for the changes side by side


def study_figure(rows: Sequence[Result], path: Path, baseline: str) -> Figure | None:
    """Draw a study, a panel per equal cost; written to `path` (.png, .svg or .pdf, its folder made) and returned.

    A dot is one seed's difference from the baseline of the same seed, in points of a hundred; a bar is their mean.
    Costs, which are figures of no number of photos, are left to the table. None where there is nothing to compare.
    """
    scored = [row for row in rows if row.n]
    changes = [name for name in dict.fromkeys(row.subject for row in scored) if name != baseline]
    costs = [cost for cost in COSTS if any(row.variant == cost and row.subject != baseline for row in scored)]
    if not costs:
        return None
    figures = list(dict.fromkeys((row.metric, row.dataset, row.split) for row in scored))
    with matplotlib.rc_context(STYLE):
        wide = max(8.0, 1.5 + len(figures) * (0.35 + 0.16 * len(changes)))
        figure = Figure(figsize=(wide, 2.4 + 3.1 * len(costs)), layout="constrained")
        for axes, cost in zip(figure.subplots(len(costs), sharex=True, squeeze=False)[:, 0], costs, strict=True):
            axes.set(title=COSTS[cost], ylabel=f"points ahead of `{baseline}`")
            for number, change in enumerate(changes):
                dots, means = _ahead(rows, figures, change, baseline, cost)
                place = ROOM * ((number + 0.5) / len(changes) - 0.5)
                colour = COLOURS[number % len(COLOURS)]
                axes.plot(*_moved(dots, place), "o", color=colour, alpha=0.6, markeredgewidth=0, label=change)
                axes.plot(*_moved(means, place), "_", color=colour, markersize=11, markeredgewidth=2.5)
            axes.axhline(0, color="black", linewidth=1)
            axes.grid(visible=False, axis="x")
            axes.set_xlim(-0.6, len(figures) - 0.4)
            names = ["\n".join(filter(None, (metric, ", ".join(filter(None, where))))) for metric, *where in figures]
            axes.set_xticks(range(len(figures)), names, rotation=35, ha="right", rotation_mode="anchor")
        seeds = len({row.seed for row in scored})
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=min(3, len(changes)))
        figure.suptitle(f"Difference from `{baseline}`: a dot per seed ({seeds}), a bar at their mean", fontsize=12)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(figure, path)
    return figure


def _ahead(
    rows: Sequence[Result], figures: Sequence[Key], change: str, baseline: str, cost: str
) -> tuple[Points, Points]:
    """(number of the figure, difference) of each seed, and of the mean over the seeds."""
    dots: Points = []
    means: Points = []
    for number, key in enumerate(figures):
        same = [row for row in rows if (row.metric, row.dataset, row.split) == key]
        base, found = at_cost(same, baseline, "epochs"), at_cost(same, change, cost)
        ahead = [100 * (found[seed].value - base[seed].value) for seed in found if seed in base]
        dots += [(number, value) for value in ahead]
        means += [(number, statistics.mean(ahead))] if ahead else []
    return dots, means


def _moved(points: Points, place: float) -> tuple[list[float], list[float]]:
    return [number + place for number, _ in points], [value for _, value in points]
