"""`docs/zoo.md` and the README's table of students, from the cards of `zoo/` and the figures of `results/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from export import figures, text
from export.quality import Column, Line, columns_of, number, students_of, with_half, with_interval
from leap_zoo.card import GENERAL, WORLD, Artifact, Metric, ModelCard
from train.research.results import Result
from train.run import RunReport

CLOSE = "leap-tiny"  # the student that should be close to its teacher
POINTS = 0.05  # a student is close to its teacher if it is not further below it than this
LIKENESS = ("agreement", "cosine")  # of a student to its teacher: the teacher's would be 1

WORLDS = {"On photos of the world": WORLD, "On corrupted photos of the world": f"{WORLD}, corrupted"}  # title, data
# Title, and the parts of a metric's name that select it for the table; photos of the world have their own table.
TABLES = {
    "Classes by a linear probe and by 10-NN": ("linear probe", "-NN"),
    "Retrieval": ("mAP", "recall@1"),
    "The teacher's classes, through its own head": ("top-1",),
    "In the teacher's space": ("cosine",),
}
FIDELITY = (
    *("top-1", "Recall@1", "top-1 drop from fp32", "top-1 agreement with fp32"),
    *("embedding cosine to fp32, mean", "embedding cosine to fp32, minimum"),
)


def render(
    cards: Sequence[ModelCard],
    lines: Sequence[Line],
    trials: Mapping[str, Sequence[Result]],
    speed: str = "",
    taught: Mapping[str, RunReport] | None = None,
) -> str:
    """The page. trials: title of a section -> what was tried. speed: latency tables. taught: model -> its training."""
    gate = [(card, artifact, _gate(card, artifact)) for card in cards for artifact in card.artifacts]
    measured = [metric for *_, found in gate for metric in found.values()]
    students = [line for line in students_of(lines) if line.figures]
    return text.render(
        "zoo.md",
        cards=cards,
        drawn=figures.digest(lines) is not None,
        costs=[[*_named(line), *_cost_cells(line)] for line in lines],
        clock=_clock(lines),
        tables=_tables(lines),
        fidelity=[[c.id, f"`{a.file}`", *(text.metric(found.get(name)) for name in FIDELITY)] for c, a, found in gate],
        gated=list(dict.fromkeys(f"{m.dataset}, {m.split}, head `{m.head}`, n = {m.n}" for m in measured)),
        speed=speed,
        peers=_beside_peers(lines, students),
        larger=[_compare(small, large) for small, large in pairwise(students)],
        close=CLOSE,
        points=f"{100 * POINTS:g}",
        teachers=_close_to_teacher(lines, [line for line in students if line.model == CLOSE]),
        trials=[(title, _trials(tried)) for title, tried in trials.items()],
        taught=taught or {},
        figure=figures,
    )


def compact_table(lines: Sequence[Line]) -> str:
    """The README's table: for each student the file that is loaded by default, its costs, and two figures."""
    chosen = [Column(GENERAL, WORLD, "test"), Column("retrieval mAP, embedding", "grocery", "test")]
    shown = [*students_of(lines), *(line for line in lines if line.card is None and line.costs)]
    return text.render(
        "zoo_table.md",
        rows=[
            [
                line.model if line.card is None else f"`{line.model}`",
                *_cost_cells(line)[2:],
                *(with_half(column, line.figures.get(column)) for column in chosen),
            ]
            for line in shown
        ],
        counts=[f"{c.dataset}: n = {count}" for c in chosen if (count := _count(lines, c))],
        clock=_clock(lines),
        drawn=figures.digest(lines) is not None,
        picture=figures.ZOO,
    ).rstrip("\n")


def teacher_space(rows: Sequence[Result]) -> str:
    """One line per data set and figure, one column per pair; in percent, 95 % intervals in brackets."""
    by = {(row.dataset, row.split, row.metric.partition(",")[0], row.variant): row for row in rows}
    pairs = list(dict.fromkeys(row.variant for row in rows if " asks " in row.variant))
    places = dict.fromkeys((row.dataset, row.split) for row in rows if row.variant in pairs)
    body = []
    for where in places:
        for metric, title in (("retrieval mAP", "mAP"), ("recall@1", "recall@1")):
            found = [by[*where, metric, pair] for pair in pairs]
            cells = (with_interval(Column(metric, *where), each) for each in found)
            photos = f"{by[*where, 'photos of the gallery', ''].value:.0f}"
            body.append([", ".join(where), photos, found[0].n, title, *cells])
    first = {row.variant: row for row in reversed(rows)}
    cosines = [f"{where[0]} {by[*where, 'cosine to the teacher', ''].value:.2f}" for where in places]
    values = {"student": first[pairs[0]], "teacher": first[pairs[-1]], "cosines": cosines}
    return text.render("teacher_space.md", pairs=pairs, rows=body, **values).rstrip("\n")


def int8_peak(rows: Sequence[Result]) -> str:
    """For each device and int8 file, its rate compared with that of a plain matrix product in int8."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for each in rows:
        found.setdefault((each.hardware, each.subject, each.variant), {})[each.metric] = each.value
    body = []
    for (hardware, model, file), measured in found.items():
        work, ms = measured["GOP of a photo"], measured["fastest CPU ms of a photo"]
        rate, peak = 1e3 * work / ms, measured["GOP/s of a plain int8 product"]
        numbers = (f"{work:.2f}", f"{ms:.2f}", f"{rate:.0f}", f"{peak:.0f}", f"{100 * rate / peak:.0f}")
        body.append([model, f"`{file}`", *numbers, hardware])
    sets = list(dict.fromkeys(each.hardware.rpartition(",")[0] for each in rows))
    return text.render("int8_peak.md", rows=body, sets=sets).rstrip("\n")


def limits(found: Mapping[str, Any]) -> str:
    """One line per published ONNX file and runtime in which `tools.check_limits` tried it."""
    return text.render("limits.md", **found).rstrip("\n")


@dataclass(frozen=True)
class Compared:
    """Two lines, the columns that both have, and the cells of the columns that get a row."""

    one: Line
    other: Line
    both: list[Column]
    rows: list[list[str]]


def _compare(small: Line, large: Line) -> Compared:
    """For each pair of students, the columns on which the larger one is not better."""
    both = [column for column in columns_of([large]) if column in small.figures]
    worse = [column for column in both if large.figures[column].value <= small.figures[column].value]
    return Compared(small, large, both, [[*_cells(c, small, large), _overlap(c, small, large)] for c in worse])


def _close_to_teacher(lines: Sequence[Line], students: Sequence[Line]) -> list[Compared]:
    """For each teacher and student, the columns on which the student is more than five points below."""
    found = []
    for student in students:
        for teacher in (line for line in lines if line.card is None and not line.peer):
            gaps = {
                column: teacher.figures[column].value - student.figures[column].value
                for column in columns_of([teacher])
                if column in student.figures and not any(word in column.metric for word in LIKENESS)
            }
            rows = [[*_cells(c, teacher, student), number(c, gap)] for c, gap in gaps.items() if gap > POINTS]
            if gaps:
                found.append(Compared(teacher, student, list(gaps), rows))
    return found


def _beside_peers(lines: Sequence[Line], students: Sequence[Line]) -> list[tuple[Compared, int]]:
    """For each peer, the columns that it shares with the largest student; those on which it is better are bold."""
    found = []
    for peer in (line for line in lines if line.peer and students):
        ours = students[-1]
        both = [column for column in columns_of([peer]) if column in ours.figures]
        better = [column for column in both if peer.figures[column].value > ours.figures[column].value]
        rows = [_cells(column, peer, ours) for column in both]
        for cells, column in zip(rows, both, strict=True):
            cells[0] = f"**{cells[0]}**" if column in better else cells[0]
        found.append((Compared(peer, ours, both, rows), len(better)))
    return found


def _trials(trials: Sequence[Result]) -> dict[str, Any]:
    """One row per change of a recipe, the first being the baseline, and one column per figure."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for trial in trials:
        rows.setdefault((trial.subject, trial.variant), []).append(trial)
    columns = list(dict.fromkeys(Column(t.metric, t.dataset, t.split) for t in trials if t.n is not None))
    body = []
    for (change, student), mine in rows.items():
        found = {Column(t.metric, t.dataset, t.split): t for t in mine if t.n is not None}
        costs = {t.metric: t.value for t in mine if t.n is None}
        minutes = f"{costs['CPU seconds'] / 60:.0f}" if "CPU seconds" in costs else ""
        spent = [f"{costs[name]:.10g}" if name in costs else "" for name in ("epochs", "photos")]
        body.append([change, student, *spent, minutes, *(with_interval(c, found.get(c)) for c in columns)])
    counts = dict.fromkeys(f"{t.dataset}, {t.split}: n = {t.n}" for t in trials if t.n is not None)
    where = dict.fromkeys(f"{trial.hardware}, commit `{trial.commit[:12]}`" for trial in trials)
    notes = [*counts, "shares in percent, 95 % intervals in brackets", *where]
    return {"titles": [column.title for column in columns], "rows": body, "notes": notes}


def _tables(lines: Sequence[Line]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title of a section, titles of its columns, and one row per line that has any of them."""
    known = columns_of(lines)
    named = {title: [c for c in known if c.dataset == name] for title, name in WORLDS.items()}
    others = [c for c in known if c.dataset not in WORLDS.values()]
    named |= {title: [c for c in others if any(word in c.metric for word in words)] for title, words in TABLES.items()}
    return [
        (
            title,
            [f"{column.title}, n = {_count(lines, column)}" for column in columns],
            [
                [*_named(line), *(with_interval(column, line.figures.get(column)) for column in columns)]
                for line in lines
                if line.figures.keys() & set(columns)
            ],
        )
        for title, columns in named.items()
        if columns
    ]


def _gate(card: ModelCard, artifact: Artifact) -> dict[str, Metric]:
    """The gate's figures of a file when it was published, with the default head, by name."""
    return {m.name: m for m in artifact.metrics if m.head == card.default_head and m.name in FIDELITY}


def _cells(column: Column, one: Line, other: Line) -> list[str]:
    return [column.title, with_interval(column, one.figures[column]), with_interval(column, other.figures[column])]


def _overlap(column: Column, small: Line, large: Line) -> str:
    low, high = small.figures[column].low, large.figures[column].high
    if low is None or high is None:
        return ""
    return "are apart" if high < low else "overlap"


def _named(line: Line) -> list[str]:
    return [line.model, f"`{line.file}`" if line.card else "a peer" if line.peer else "the teacher"]


def _cost_cells(line: Line) -> list[str]:
    costs, timed = line.costs, line.latency
    parameters, size = text.mega(costs.get("parameters")), text.mega(costs.get("bytes"))
    return [parameters, text.number(costs.get("pixels"), ".0f"), size, f"{timed.median_ms:.2f}" if timed else ""]


def _clock(lines: Sequence[Line]) -> str:
    timed = dict.fromkeys(
        f"{row.device} ({', '.join(row.isa)}), {row.runtime}" for line in lines if (row := line.latency) is not None
    )
    return f"ms: median of a photo, one thread, from the cards ({'; '.join(timed)})." if timed else ""


def _count(lines: Sequence[Line], column: Column) -> int | None:
    return next((line.figures[column].n for line in lines if column in line.figures), None)
