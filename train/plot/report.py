"""Pictures of trainings: `python -m train.plot RUN [RUN ...] [--out FILE]`, and strategies side by side."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train import page, panels
from train.errors import TrainError
from train.history import History, load_history
from train.panels import COLOURS, STYLE, percent

PICTURE, PAGE = "report.png", "report.html"
KINDS = (".png", ".svg", ".html")
LOOKS = (("-", "."), ("--", "^"), (":", "s"), ("-.", "x"))  # lines and markers of the runs of one strategy
GREY = "#666666"  # of a strategy that has no colour of its own


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for what the user can mend)."""
    parser = argparse.ArgumentParser(
        prog="python -m train.plot",
        description="Draw a training, finished or not: loss, similarity, target block with reasons, 10-NN accuracy. "
        "Several runs are drawn into one picture, to compare.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a rival's in RUN/compare")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"{', '.join(KINDS)} (default: {PICTURE} in the run folder, comparison.png here for several)",
    )
    options = parser.parse_args(arguments)
    try:
        print(draw(options.runs, options.out))
    except TrainError as error:
        print(f"train.plot: {error}", file=sys.stderr)
        return 2
    return 0


def draw(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Draw run folders into one file and return its path. Raises TrainError for what cannot be read or written."""
    out = out or (Path("comparison.png") if len(runs) > 1 else runs[0] / PICTURE)
    if out.suffix not in KINDS:
        raise TrainError(f"--out {out}: the name must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    histories = [load_history(run) for run in runs]
    figure = run_figure(histories[0]) if len(histories) == 1 else comparison_figure(histories)
    try:
        if out.suffix == ".html":
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=110)
            out.write_text(page.render(histories, picture.getvalue()), encoding="utf-8")
        else:
            _save(figure, out)
    except OSError as error:
        raise TrainError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    return out


def run_figure(history: History) -> Figure:
    """One run: loss, similarity by block, target block with the reasons of its moves, 10-NN on a part of train."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 8), layout="constrained")
        (loss, similarity), (target, neighbours) = figure.subplots(2, 2)
        colour = COLOURS.get(history.strategy, GREY)
        panels.loss(loss, history, colour)
        panels.similarity(similarity, history)
        panels.target(target, history, GREY)
        panels.neighbours(neighbours, history, colour)
        for axes in (loss, similarity):
            panels.mark_moves(axes, history)
            if not history.log:
                panels.nothing_yet(axes, "nothing logged yet")
        if history.monitor:
            neighbours.legend(loc="best")
            neighbours.set_xlim(0, history.recipe.epochs)
        else:
            panels.nothing_yet(neighbours, "no monitor.csv: the monitor was off,\nor has not measured yet")
        for axes in (loss, similarity, target):
            axes.set_xlim(left=0)
        figure.suptitle(f"{history.recipe.name}: {caption(history)}", fontsize=12)
    return figure


def comparison_figure(histories: Sequence[History]) -> Figure:
    """Several runs, overlaid: a colour per strategy, another line and marker for each further run of it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 8), layout="constrained")
        (loss, similarity), (target, neighbours) = figure.subplots(2, 2)
        seen: dict[str, int] = {}
        for history, label in zip(histories, labels(histories), strict=True):
            colour = COLOURS.get(history.strategy, GREY)
            repeat = seen[history.strategy] = seen.get(history.strategy, -1) + 1
            style, marker = LOOKS[repeat % len(LOOKS)]
            before = [len(axes.lines) for axes in (loss, similarity, target)]
            panels.loss(loss, history, colour, label)
            panels.similarity(similarity, history, colour, label)
            panels.target(target, history, colour, label, reasons=False)
            panels.neighbours(neighbours, history, colour, label, marker)
            for axes, first in zip((loss, similarity, target), before, strict=True):
                for line in axes.lines[first:]:
                    if line.get_marker() == "None":
                        line.set_linestyle(style)
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(histories)))
        if neighbours.lines:
            panels.explain_lines(neighbours)
        else:
            panels.nothing_yet(neighbours, "none of these runs has a monitor.csv")
        figure.suptitle(f"{len(histories)} runs compared", fontsize=12)
    return figure


def labels(histories: Sequence[History]) -> list[str]:
    """A name for each run: its strategy, with seed and then folder where that does not tell them apart."""
    names = [history.strategy for history in histories]
    for extra in (lambda history: f"seed {history.recipe.seed}", lambda history: history.folder.as_posix()):
        names = [
            f"{name}, {extra(history)}" if names.count(name) > 1 else name
            for name, history in zip(names, histories, strict=True)
        ]
    return names


def caption(history: History) -> str:
    """Strategy, seed, length, and what early exit saved, in one line."""
    recipe, report = history.recipe, history.report
    text = f"`{history.strategy}`, {recipe.epochs} epochs, seed {recipe.seed}"
    if report is None:
        return f"{text}; unfinished, {history.steps} steps so far"
    return (
        f"{text}; early exit saved {report.teacher_flops_saved:.1%} of the teacher's FLOPs, "
        f"{report.total_flops_saved:.1%} of all"
    )


def write_report(folder: Path) -> None:
    """Write report.png and report.html into a run folder. Raises TrainError for what cannot be read or written."""
    draw([folder])
    draw([folder], folder / PAGE)


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
        _save(figure, path)
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
        percent(axes.xaxis)


def _mean(rows: Sequence[dict[str, Any]], strategy: str, column: str) -> float:
    values = [float(row[column]) for row in rows if row["strategy"] == strategy and row.get(column) is not None]
    return sum(values) / len(values) if values else -float("inf")


def _save(figure: Figure, path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    sys.exit(main())
