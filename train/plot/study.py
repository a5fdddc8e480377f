"""The picture of a study: how far each change is from the baseline, by figure, with a dot per seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from train.plot.report import COLOURS, STYLE
from train.research.page import by_figure, compare
from train.research.results import Result
from train.research.runner import COSTS

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
    figures = by_figure(scored)
    with matplotlib.rc_context(STYLE):
        wide = max(8.0, 1.5 + len(figures) * (0.35 + 0.16 * len(changes)))
        figure = Figure(figsize=(wide, 2.4 + 3.1 * len(costs)), layout="constrained")
        for axes, cost in zip(figure.subplots(len(costs), sharex=True, squeeze=False)[:, 0], costs, strict=True):
            for number, same in enumerate(figures.values()):
                for place, change in enumerate(changes):
                    ahead = [100 * difference for difference in compare(same, change, baseline, cost)[1]]
                    x, colour = number + ROOM * ((place + 0.5) / len(changes) - 0.5), COLOURS[place % len(COLOURS)]
                    axes.plot([x] * len(ahead), ahead, "o", color=colour, alpha=0.6, markeredgewidth=0, label=change)
                    if ahead:
                        mean = statistics.mean(ahead)
                        axes.plot([x], [mean], "_", color=colour, markersize=11, markeredgewidth=2.5)
            axes.set(title=COSTS[cost], ylabel=f"points ahead of `{baseline}`")
            axes.axhline(0, color="black", linewidth=1)
            names = ["\n".join(filter(None, (metric, ", ".join(filter(None, where))))) for metric, *where in figures]
            axes.set_xticks(range(len(figures)), names, rotation=35, ha="right", rotation_mode="anchor")
        handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, len(changes)))
        seeds = len({row.seed for row in scored})
        figure.suptitle(f"Difference from `{baseline}`: a dot per seed ({seeds}), a bar at their mean", fontsize=12)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    return figure
