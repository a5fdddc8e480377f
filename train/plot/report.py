"""report.png: a training in one picture, finished or still going; or several, a colour per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

PICTURE = "report.png"
# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow that white swallows.
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


@dataclass(frozen=True)
class History:
    """A training as its folder tells it. Unfinished: `report` is None, and there are no `moves`."""

    folder: Path
    recipe: Recipe
    log: list[log.LogRow]
    moves: list[Move]
    monitor: list[monitor.Measurement]
    report: RunReport | None

    @property
    def name(self) -> str:
        """What tells it apart from other runs of its recipe."""
        return f"{self.recipe.curriculum.strategy}, seed {self.recipe.seed}"


def load_history(folder: Path) -> History:
    """Read a run folder. Raises TrainError when it is not one, or its files are damaged."""
    if not (folder / RECIPE).is_file():
        raise TrainError(f"{folder} is not a run folder ({RECIPE} is missing); name one that `python -m train` wrote")
    moves, report = folder / "curriculum.csv", folder / "metrics.json"
    try:
        done = msgspec.json.decode(report.read_bytes(), type=RunReport) if report.is_file() else None
    except msgspec.MsgspecError as error:
        raise TrainError(f"{report} is not the report of a run ({error}); move it away") from error
    return History(
        folder=folder,
        recipe=load_recipe(folder / RECIPE),
        log=log.read(folder / log.FILE),
        moves=table.read(moves, Move) if moves.is_file() else [],
        monitor=monitor.read(folder / monitor.FILE),
        report=done,
    )


def write_report(folder: Path) -> None:
    """Write report.png into a run folder. Raises TrainError for what cannot be read or written."""
    draw([folder], folder / PICTURE)


def draw(runs: Sequence[Path], out: Path) -> None:
    """Draw run folders into one file. Raises TrainError for what cannot be read or written."""
    figure = report_figure([load_history(run) for run in runs])
    try:
        figure.savefig(out, dpi=110)
    except (OSError, ValueError) as error:
        raise TrainError(f"cannot write {out} ({error}); choose another --out") from error


def report_figure(histories: Sequence[History]) -> Figure:
    """What was logged, the target block and why it moved, 10-NN accuracy."""
    names = [history.name for history in histories]
    if len(set(names)) < len(names):
        names = [str(history.folder) for history in histories]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(17, 8), layout="constrained")
        *columns, target, neighbours = figure.subplots(2, 3).flat
        for number, (history, name) in enumerate(zip(histories, names, strict=True)):
            look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "label": name}
            for axes, field in zip(columns, COLUMNS, strict=True):
                axes.plot([row.step for row in history.log], [getattr(row, field) for row in history.log], **look)
            _target(target, history, look)
            _neighbours(neighbours, history, look)
        for axes, title in zip(columns, COLUMNS.values(), strict=True):
            axes.set(title=title, xlabel="optimiser step")
        target.set(title="Target block of the teacher (1 = first), and why it moved", xlabel="optimiser step")
        target.yaxis.set_major_locator(MaxNLocator(integer=True))
        _explain(target, {move.reason: REASONS[move.reason] for one in histories for move in one.moves})
        neighbours.set(title="10-NN accuracy on a tenth of the training photos", xlabel="epoch")
        neighbours.xaxis.set_major_locator(MaxNLocator(integer=True))
        _explain(neighbours, KINDS)
        if len(histories) > 1:
            figure.legend(*target.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle(_caption(histories[0]) if len(histories) == 1 else f"{len(histories)} runs side by side")
    return figure


def _target(axes: Axes, history: History, look: dict[str, Any]) -> None:
    """A staircase, with a marker at each move that says why; of an unfinished run the log has it every few steps."""
    points = [(move.step, move.block) for move in history.moves] or [(row.step, row.block) for row in history.log]
    points += [(row.step, points[-1][1]) for row in history.log[-1:]]
    axes.plot([step for step, _ in points], [block for _, block in points], drawstyle="steps-post", **look)
    for move in history.moves:
        axes.plot([move.step], [move.block], REASONS[move.reason], color=look["color"], markersize=8)


def _neighbours(axes: Axes, history: History, look: dict[str, Any]) -> None:
    """10-NN accuracy over epochs, 0..1, with 95 % intervals."""
    for kind, marker in KINDS.items():
        rows = [row for row in history.monitor if row.metric == f"10-NN, {kind}"]
        epochs, low, high = [row.epoch for row in rows], [row.low for row in rows], [row.high for row in rows]
        axes.plot(epochs, [row.value for row in rows], marker=marker, **look)
        axes.fill_between(epochs, low, high, color=look["color"], alpha=0.1)


def _explain(axes: Axes, markers: dict[str, str]) -> None:
    """A legend of markers, whatever the colours."""
    axes.legend(handles=[Line2D([], [], ls="", color="k", marker=m, label=text) for text, m in markers.items()])


def _caption(history: History) -> str:
    """Recipe, strategy, seed, and what early exit saved, in one line."""
    text, done = f"{history.recipe.name}: {history.name}, {history.recipe.epochs} epochs", history.report
    if done is None:
        return f"{text}; unfinished"
    return f"{text}; FLOPs saved: {done.teacher_flops_saved:.1%} of the teacher's, {done.total_flops_saved:.1%} of all"
