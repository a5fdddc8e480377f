"""One picture of one training, finished or not, or of several side by side; report.png and report.html of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from train.errors import TrainError
from train.plot import page, panels
from train.plot.history import History, load_history
from train.plot.panels import COLOURS, STYLE

PICTURE, PAGE = "report.png", "report.html"
FORMATS = (".png", ".svg", ".html")


def write_report(folder: Path) -> None:
    """Write report.png and report.html into a run folder. Raises TrainError or OSError where that cannot be."""
    draw([folder], folder / PICTURE)
    (folder / PAGE).write_text(page.render([load_history(folder)], (folder / PICTURE).read_bytes()), encoding="utf-8")


def draw(runs: Sequence[Path], out: Path) -> None:
    """Draw run folders into one file. Raises TrainError for what cannot be read or written."""
    if out.suffix not in FORMATS:
        raise TrainError(f"--out {out}: the name must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    histories = [load_history(run) for run in runs]
    figure = report_figure(histories)
    try:
        if out.suffix == ".html":
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=110)
            out.write_text(page.render(histories, picture.getvalue()), encoding="utf-8")
        else:
            save(figure, out)
    except OSError as error:
        raise TrainError(f"cannot write {out}: {error.strerror}; choose another --out") from error


def report_figure(histories: Sequence[History]) -> Figure:
    """Loss, similarity, learning rate, target block and why it moved, 10-NN, speed; a colour per run."""
    alone = histories[0] if len(histories) == 1 else None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(17, 8), layout="constrained")
        (loss, similarity, rate), (target, neighbours, speed) = figure.subplots(2, 3)
        columns = {"loss": loss, "similarity": similarity, "rate": rate, "images_per_second": speed}
        for number, (history, label) in enumerate(zip(histories, labels(histories), strict=True)):
            style = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
            look = {"color": COLOURS[number % len(COLOURS)], "linestyle": style, "linewidth": 1.5, "label": label}
            for field, axes in columns.items():
                panels.logged(axes, history, field, look)
            if history.targets:
                panels.target(target, history, look)
            panels.neighbours(neighbours, history, look, intervals=alone is not None)
        _name_axes(histories, columns, target, neighbours)
        if alone:
            for step, _ in alone.targets[1:]:  # so that the panels can be read together
                for axes in columns.values():
                    axes.axvline(step, color="#999999", linewidth=0.6, alpha=0.6, zorder=0)
            figure.suptitle(f"{alone.recipe.name}: {caption(alone)}", fontsize=12)
        else:
            handles = [line for line in rate.lines if not str(line.get_label()).startswith("_")]
            figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(histories)))
            figure.suptitle(f"{len(histories)} runs side by side", fontsize=12)
    return figure


def _name_axes(histories: Sequence[History], columns: dict[str, Axes], target: Axes, neighbours: Axes) -> None:
    losses = sorted({f"{one.recipe.loss.distance} on {one.recipe.loss.targets} features" for one in histories})
    measures = sorted({one.recipe.curriculum.similarity for one in histories})
    columns["loss"].set(title="Loss (each target block has its own scale)", ylabel=" or ".join(losses))
    columns["similarity"].set(title="Similarity of student and target", ylabel=f"{' or '.join(measures)} (1 = alike)")
    columns["rate"].set(title="Learning rate", ylabel="of the optimiser")
    columns["images_per_second"].set(title="Speed", ylabel="images per second")
    target.set(title="Target block of the teacher, and why it moved", ylabel="block (1 = first)")
    neighbours.set(title="10-NN accuracy on a tenth of the training photos", xlabel="epoch", ylabel="right answers")
    for axes in (*columns.values(), target):
        axes.set_xlabel("optimiser step")
        if any(one.log for one in histories):
            axes.set_xlim(left=0)
        else:
            panels.nothing_yet(axes, "nothing logged yet")
    target.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    seen = {move.reason for one in histories for move in one.moves}
    if seen:
        panels.explain(target, {mark: text for reason, (mark, text) in panels.REASONS.items() if reason in seen})
    if any(one.monitor for one in histories):
        neighbours.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        neighbours.xaxis.set_major_locator(MaxNLocator(integer=True))
        neighbours.set_xlim(0, max(one.recipe.epochs for one in histories))
        panels.explain(neighbours, dict(panels.KINDS.values()))
    else:
        panels.nothing_yet(neighbours, "no monitor.csv: the monitor was off,\nor has not measured yet")


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
        f"{text}; {report.teacher_flops_saved:.1%} of the teacher's FLOPs saved, {report.total_flops_saved:.1%} of all"
    )


def save(figure: Figure, path: Path) -> None:
    """Write a picture; an .svg without its date, so that the same picture is the same file. Raises OSError."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
