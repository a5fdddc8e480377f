"""Where a larger student is not better, where one is far from its teacher, and what was tried in training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from export.markdown import table
from export.quality import Column, Line, columns_of, number, students_of, with_interval
from train.research.results import Result

POINTS = 0.05  # a student is close to its teacher when it is not further below it than this
LIKENESS = ("agreement", "cosine")  # of a student to its teacher: the teacher's own would be whole


def larger_is_better(lines: Sequence[Line]) -> list[str]:
    """Per pair of students that follow in size, the columns on which the larger one is not better."""
    students = [line for line in students_of(lines) if line.figures]
    if len(students) < 2:
        return ["Fewer than two students of the zoo were measured: there is nothing to compare.", ""]
    text = []
    for small, large in pairwise(students):
        both = [column for column in columns_of([large]) if column in small.figures]
        worse = [column for column in both if large.figures[column].value <= small.figures[column].value]
        pair = f"`{large.model}` ({_size(large)}) against `{small.model}` ({_size(small)})"
        if not worse:
            text += [f"{pair}: better on each of {len(both)} columns.", ""]
            continue
        text += [f"{pair}: not better on {len(worse)} of {len(both)} columns.", ""]
        rows = [_compared(column, small, large) for column in worse]
        text += table(["column", small.model, large.model, "the 95 % intervals"], rows)
    return text


def close_to_teacher(lines: Sequence[Line], model: str) -> list[str]:
    """The columns on which a student is more than five points below its teacher; nothing where it is not in the zoo."""
    line = next((line for line in students_of(lines) if line.model == model and line.figures), None)
    if line is None:
        return []
    text = []
    for teacher in (other for other in lines if other.card is None and not other.peer):
        both = [column for column in columns_of([teacher]) if column in line.figures]
        both = [column for column in both if not any(word in column.metric for word in LIKENESS)]
        below = [column for column in both if teacher.figures[column].value - line.figures[column].value > POINTS]
        pair = f"`{model}` (`{line.file}`) against {teacher.model}"
        if not both:
            continue
        if not below:
            text += [f"{pair}: on none of {len(both)} columns more than {100 * POINTS:g} points below.", ""]
            continue
        text += [f"{pair}: more than {100 * POINTS:g} points below on {len(below)} of {len(both)} columns.", ""]
        rows = [
            [
                column.title,
                with_interval(column, teacher.figures[column]),
                with_interval(column, line.figures[column]),
                number(column, teacher.figures[column].value - line.figures[column].value),
            ]
            for column in below
        ]
        text += table(["column", "teacher", model, "points below"], rows)
    return text


def beside_peers(lines: Sequence[Line]) -> list[str]:
    """Per peer, the columns on which it is better than the largest student; nothing without peers."""
    text, students = list[str](), [line for line in students_of(lines) if line.figures]
    for peer in (line for line in lines if line.peer and students):
        ours = students[-1]
        both = [column for column in columns_of([peer]) if column in ours.figures]
        better = [column for column in both if peer.figures[column].value > ours.figures[column].value]
        pair = (
            f"{peer.model} ({peer.costs['parameters'] / 1e6:.2f} M parameters) against `{ours.model}` ({_size(ours)})"
        )
        text += [f"{pair}: the peer is better on {len(better)} of {len(both)} columns.", ""]
        rows = [_compared(column, peer, ours) for column in both]
        marked = [
            [f"**{row[0]}**" if column in better else row[0], *row[1:-1]]
            for column, row in zip(both, rows, strict=True)
        ]
        text += table(["column (bold: the peer is better)", "peer", ours.model], marked)
    return text


def trials_table(trials: Sequence[Result]) -> list[str]:
    """A row per change of a recipe, the first being what the others are compared with, and a column per figure."""
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
        body.append(
            [change, student, *spent, minutes, *(with_interval(column, found.get(column)) for column in columns)]
        )
    where = dict.fromkeys(f"{trial.hardware}, commit `{trial.commit[:12]}`" for trial in trials)
    counts = dict.fromkeys(f"{t.dataset}, {t.split}: n = {t.n}" for t in trials if t.n is not None)
    titles = ["change", "student", "epochs", "photos", "CPU minutes", *(column.title for column in columns)]
    notes = [*counts, "shares in per cent, 95 % intervals in brackets", *where]
    return [*table(titles, body), "; ".join(notes) + ".", ""] if body else []


def _compared(column: Column, small: Line, large: Line) -> list[str]:
    one, other = small.figures[column], large.figures[column]
    if None in (one.low, one.high, other.low, other.high):
        overlap = ""
    else:
        apart = other.high < one.low  # type: ignore[operator]
        overlap = "are apart" if apart else "overlap"
    return [column.title, with_interval(column, one), with_interval(column, other), overlap]


def _size(line: Line) -> str:
    return f"{line.costs['parameters'] / 1e6:.2f} M parameters, `{line.file}`"
