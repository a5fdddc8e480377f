"""report.png: a plot of one training, finished or still running, or of several, with a color per run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from train import log, table
from train.errors import TrainError
from train.evaluate import monitor
from train.method.curriculum import Move
from train.recipe import Recipe
from train.recipe_file import load_recipe
from train.run import RECIPE, RunReport

# Okabe and Ito's colors, which color-blind readers can tell apart, without the yellow that white swallows.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
REASONS = {"start": "s", "calibration": "D", "similarity": "*", "timeout": "X", "plateau": "P", "budget": "o"}
KINDS = {"cls": "o", "patch_mean": "^"}
COLUMNS = {  # of log.csv
    "loss": "Loss (each target block has its own scale)",
    "similarity": "Similarity of student and target (1 = alike)",
    "rate": "Learning rate",
    "images_per_second": "Images per second",
}
STYLE: dict[Any, Any] = {"text.parse_math": False, "axes.grid": True, "grid.color": "#dddddd"}  # `$` may be in a name


def draw(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Draw run folders into one file, by default report.png in the folder of a single one. Raises TrainError."""
    out = out or (Path("comparison.png") if len(runs) > 1 else runs[0] / "report.png")
    figure = report_figure(runs)
    try:
        figure.savefig(out, dpi=110)
    except (OSError, ValueError) as error:
        raise TrainError(f"cannot write {out} ({error}); choose another --out") from error
    return out


def report_figure(runs: Sequence[Path]) -> Figure:
    """Of run folders: what was logged, the target block and why it moved, 10-NN accuracy. Raises TrainError."""
    recipes = [_recipe(folder) for folder in runs]
    names = [f"{recipe.curriculum.strategy}, seed {recipe.seed}" for recipe in recipes]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in runs]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(17, 8), layout="constrained")
        *columns, target, neighbours = figure.subplots(2, 3).flat
        reasons: dict[str, str] = {}
        for folder, name, colour in zip(runs, names, itertools.cycle(COLOURS)):
            look: dict[str, Any] = {"color": colour, "label": name}
            rows, moves_file = log.read(folder / log.FILE), folder / "curriculum.csv"
            moves = table.read(moves_file, Move) if moves_file.is_file() else []
            for axes, field in zip(columns, COLUMNS, strict=True):
                axes.plot([row.step for row in rows], [getattr(row, field) for row in rows], **look)
            _target(target, rows, moves, look)
            _neighbours(neighbours, monitor.read(folder / monitor.FILE), look)
            reasons |= {move.reason: REASONS[move.reason] for move in moves}
        for axes, title in zip(columns, COLUMNS.values(), strict=True):
            axes.set(title=title, xlabel="optimizer step")
        target.set(title="Target block of the teacher (1 = first), and why it moved", xlabel="optimizer step")
        target.yaxis.set_major_locator(MaxNLocator(integer=True))
        _explain(target, reasons)
        neighbours.set(title="10-NN accuracy on a tenth of the training photos", xlabel="epoch")
        neighbours.xaxis.set_major_locator(MaxNLocator(integer=True))
        _explain(neighbours, KINDS)
        if len(runs) > 1:
            figure.legend(*target.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle(f"{len(runs)} runs side by side" if len(runs) > 1 else _caption(runs[0], recipes[0], names[0]))
    return figure


def _recipe(folder: Path) -> Recipe:
    if not (folder / RECIPE).is_file():
        raise TrainError(f"{folder} is not a run folder ({RECIPE} is missing); name one that `python -m train` wrote")
    return load_recipe(folder / RECIPE)


def _target(axes: Axes, rows: Sequence[log.LogRow], moves: Sequence[Move], look: dict[str, Any]) -> None:
    """A staircase, with a marker at each move that says why; of an unfinished run the log has it every few steps."""
    points = [(move.step, move.block) for move in moves] or [(row.step, row.block) for row in rows]
    points += [(row.step, points[-1][1]) for row in rows[-1:]]
    axes.plot([step for step, _ in points], [block for _, block in points], drawstyle="steps-post", **look)
    for move in moves:
        axes.plot([move.step], [move.block], REASONS[move.reason], color=look["color"], markersize=8)


def _neighbours(axes: Axes, measured: Sequence[monitor.Measurement], look: dict[str, Any]) -> None:
    """10-NN accuracy over epochs, 0..1, with 95 % intervals."""
    for kind, marker in KINDS.items():
        rows = [row for row in measured if row.metric == f"10-NN, {kind}"]
        epochs, low, high = [row.epoch for row in rows], [row.low for row in rows], [row.high for row in rows]
        axes.plot(epochs, [row.value for row in rows], marker=marker, **look)
        axes.fill_between(epochs, low, high, color=look["color"], alpha=0.1)


def _explain(axes: Axes, markers: dict[str, str]) -> None:
    """A legend of markers, whatever the colors."""
    axes.legend(handles=[Line2D([], [], ls="", color="k", marker=m, label=text) for text, m in markers.items()])


def _caption(folder: Path, recipe: Recipe, name: str) -> str:
    """Recipe, strategy, seed, and what early exit saved."""
    text, file = f"{recipe.name}: {name}, {recipe.epochs} epochs", folder / "metrics.json"
    if not file.is_file():
        return f"{text}; unfinished"
    try:
        done = msgspec.json.decode(file.read_bytes(), type=RunReport)
    except msgspec.MsgspecError as error:
        raise TrainError(f"{file} is not the report of a run ({error}); move it away") from error
    return f"{text}; FLOPs saved: {done.teacher_flops_saved:.1%} of the teacher's, {done.total_flops_saved:.1%} of all"
