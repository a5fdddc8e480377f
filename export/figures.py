"""Two reproducible pictures: a model's curriculum, and every published file as a point."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from export.quality import Column, Line, columns_of
from leap_zoo.card import GENERAL, WORLD, CurriculumStep, ModelCard

CURRICULUM = "curriculum.svg"  # in a model's folder, beside its README
ZOO = "zoo.svg"  # in docs/images: accuracy against milliseconds and megabytes

# Marker, color (Okabe and Ito's palette, for color-blind readers) and meaning, as in `train.panels`.
REASONS = {
    "start": ("s", "#000000", "start"),
    "calibration": ("D", "#000000", "calibration: the block most like the fresh student"),
    "similarity": ("*", "#009E73", "similarity: the student had come close enough"),
    "timeout": ("X", "#D55E00", "timeout: the longest stay on a block was over"),
    "budget": ("o", "#0072B2", "budget: the block's share of the steps was used up"),
    "schedule": ("^", "#56B4E9", "schedule: by the step count alone"),
    "retreat": ("v", "#CC79A7", "retreat: back, the student had lost touch"),
}
OTHER = ("P", "#E69F00")  # for any other reason
GREY = "#666666"
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a name does not start a formula
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
PANELS = (GENERAL, "linear probe, embedding")  # the first column of each, photos of the world before others
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
# Marker, offset of its label in points, and its name in the label.
KINDS = {
    ("onnx", "fp32"): ("o", (0, 9), "fp32", "ONNX fp32"),
    ("onnx", "fp16"): ("D", (0, 9), "fp16", "ONNX fp16"),
    ("onnx", "int8"): ("s", (0, -16), "int8", "ONNX int8"),
    ("openvino", "fp16"): ("v", (0, 9), "OV fp16", "OpenVINO fp16"),
    ("openvino", "int8"): ("^", (0, 9), "OV int8", "OpenVINO int8"),
    ("executorch", "fp32"): ("P", (0, 9), "ET fp32", "ExecuTorch fp32"),
    ("executorch", "int8"): ("X", (0, -16), "ET int8", "ExecuTorch int8"),
}
DASHES: tuple[Any, ...] = ("--", ":", "-.")
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def curriculum(card: ModelCard) -> bytes | None:
    """The curriculum as SVG, the same bytes for the same card; None if the card has no curriculum."""
    if card.training is None or not card.training.curriculum:
        return None
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):  # regardless of the user's matplotlibrc
        title = f"{card.id}: the target block of {card.training.teacher.name}, and why it moved"
        return _svg(_curriculum(card.training.curriculum, title), METADATA)


def _curriculum(moves: list[CurriculumStep], title: str) -> Figure:
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
    # The card does not say when training ended: draw an open end, about as long as a typical stay.
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


class Point(NamedTuple):
    """A file on one panel: shares in percent."""

    model: str
    kind: tuple[str, str]
    at: float
    value: float
    low: float
    high: float


def zoo(lines: Sequence[Line]) -> bytes | None:
    """SVG, the same bytes for the same figures and versions; None if no file was measured and timed."""
    drawn = digest(lines)
    if drawn is None:
        return None
    larger: dict[Any, Any] = {"font.size": 10, "legend.fontsize": 9.5}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, **larger}):
        return _svg(_panels(lines, _columns(lines)), METADATA | {"Description": drawn})


def digest(lines: Sequence[Line]) -> str | None:
    """A digest of everything that is drawn. The file contains it, so drift shows even with another matplotlib.

    None if no file was measured.
    """
    columns = _columns(lines)
    if not any(_points(lines, column, axis) for column in columns for axis in ("ms", "MB")):
        return None
    drawn = [
        (column, [_points(lines, column, axis) for axis in ("ms", "MB")], _levels(lines, column)) for column in columns
    ]
    return f"drawn from {hashlib.sha256(repr(drawn).encode()).hexdigest()}"


def _columns(lines: Sequence[Line]) -> list[Column]:
    known = sorted(columns_of(lines), key=lambda column: column.dataset != WORLD)
    found = [next((column for column in known if column.metric == name), None) for name in PANELS]
    return [column for column in found if column is not None]


def _points(lines: Sequence[Line], column: Column, axis: str) -> list[Point]:
    points = []
    for line in lines:
        found, timed = line.figures.get(column), line.latency
        if line.artifact is None or found is None or (axis == "ms" and timed is None):
            continue
        at = timed.median_ms if axis == "ms" and timed else line.costs["bytes"] / 1e6
        ends = (found.value if found.low is None else found.low, found.value if found.high is None else found.high)
        kind = (line.artifact.format, line.artifact.precision)
        points.append(Point(line.model, kind, at, 100 * found.value, 100 * ends[0], 100 * ends[1]))
    return points


def _levels(lines: Sequence[Line], column: Column) -> list[tuple[str, float]]:
    """The teacher's figures at each resolution at which it was measured."""
    return [
        (line.model, 100 * line.figures[column].value)
        for line in lines
        if line.card is None and not line.peer and column in line.figures
    ]


def _panels(lines: Sequence[Line], columns: Sequence[Column]) -> Figure:
    figure = Figure(figsize=(9.6, 3.9 * len(columns) + 0.9), layout="constrained", facecolor="white")
    panels = figure.subplots(len(columns), 2, sharey="row", squeeze=False)
    colours = dict(zip(dict.fromkeys(line.model for line in lines if line.card), COLOURS * 9, strict=False))
    for row, column in zip(panels, columns, strict=True):
        first = next(line.figures[column] for line in lines if column in line.figures)
        row[0].set_ylabel("percent")
        row[0].set_title(f"{column.title}, n = {first.n}")
        for axes, axis, label in zip(row, ("ms", "MB"), ("ms per photo, one thread", "MB of the file"), strict=True):
            axes.set_xlabel(label)
            _draw_panel(axes, _points(lines, column, axis), _levels(lines, column), colours)
    figure.legend(handles=_legend(lines, columns), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_panel(
    axes: Axes, points: Sequence[Point], levels: Sequence[tuple[str, float]], colours: dict[str, str]
) -> None:
    axes.set_xscale("log")
    for (_, value), dash in zip(levels, DASHES, strict=False):
        axes.axhline(value, color=GREY, linestyle=dash, linewidth=1.4, zorder=1)
    for model in dict.fromkeys(point.model for point in points):
        ours = sorted((point for point in points if point.model == model), key=lambda point: point.at)
        axes.plot([p.at for p in ours], [p.value for p in ours], color=colours[model], linewidth=0.8, zorder=2)
    for point in points:
        marker, offset, name, _ = KINDS[point.kind]
        colour = colours[point.model]
        axes.plot([point.at] * 2, [point.low, point.high], color=colour, linewidth=0.8, alpha=0.6, zorder=2)
        axes.plot(point.at, point.value, marker, color=colour, markersize=7, zorder=3)
        text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "color": colour, "fontsize": 9}
        text["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
        axes.annotate(f"{point.model.removeprefix('leap-')} {name}", (point.at, point.value), offset, **text)
    places = [point.at for point in points]
    if places:
        axes.set_xlim(min(places) / 1.8, max(places) * 1.8)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(y=0.14)


def _legend(lines: Sequence[Line], columns: Sequence[Column]) -> list[Line2D]:
    """The legend's shapes and the teacher's lines; the labels of the points explain the colors."""
    kinds = dict.fromkeys(point.kind for column in columns for point in _points(lines, column, "MB"))
    handles = [
        Line2D([], [], marker=KINDS[kind][0], color=GREY, linestyle="", markersize=7, label=KINDS[kind][3])
        for kind in kinds
    ]
    for (name, _), dash in zip(_levels(lines, columns[0]), DASHES, strict=False):
        handles.append(Line2D([], [], color=GREY, linestyle=dash, linewidth=1.4, label=f"teacher: {name}"))
    handles.append(Line2D([], [], color=GREY, linestyle="", marker="|", markersize=12, label="95 % interval"))
    return handles


def _svg(figure: Figure, metadata: dict[str, Any]) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata=metadata)
    return picture.getvalue()
