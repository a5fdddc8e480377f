"""What docs/zoo.md, its figure and the README's table show: cards of `zoo/` beside the figures of `results/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from export import text
from leap_zoo.card import GENERAL, WORLD, Artifact, Latency, ModelCard
from leap_zoo.loading import choose_artifact
from train.research.results import Result

CLOSE = "leap-tiny"  # the student that should be close to its teacher
POINTS = 0.05  # a student is close to its teacher if it is not further below it than this
THE_TEACHER, A_PEER = "the teacher", "a peer"
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


class Column(NamedTuple):
    """A figure: what was measured, and on which data."""

    metric: str
    dataset: str
    split: str

    @property
    def title(self) -> str:
        """Short enough for a table's header."""
        name = self.metric.removesuffix(", embedding").removesuffix(" through the teacher's head")
        for long, short in (("linear probe", "probe"), ("retrieval mAP", "mAP"), ("the teacher", "teacher")):
            name = name.replace(long, short)
        return f"{self.dataset}, {self.split}: {name}"


Columns = dict[Column, int | None]  # with their numbers of photos, in the order in which they were measured


@dataclass(frozen=True, eq=False)
class Line:
    """A published file, the teacher, or a peer (another project's model that a user might choose instead).

    kind: the file in a table, or what the line is of instead. costs: by name. A trial of training is a line, too.
    """

    model: str
    file: str
    kind: str
    costs: dict[str, float]
    figures: dict[Column, Result]
    card: ModelCard | None = None
    artifact: Artifact | None = None
    latency: Latency | None = None  # for one photo on one thread

    def cells(self, columns: Sequence[Column]) -> list[str]:
        """For each column the value, with its 95 % interval in brackets; empty if it was not measured."""
        return [text.measured(self.figures.get(column)) for column in columns]


def values(
    cards: Sequence[ModelCard], figures: Sequence[Result], trials: Mapping[str, Sequence[Result]] | None = None
) -> dict[str, Any]:
    """For the templates zoo.md, zoo.svg and zoo_table.md. trials: title of a section -> what was tried.

    `column` and `files` are of the picture: without files, there is none.
    """
    lines = lines_of(cards, figures)
    columns = _columns(lines)
    column = next((c for c in sorted(columns, key=lambda c: c.dataset != WORLD) if c.metric == GENERAL), None)
    gate = {
        line: {m.name: m for m in line.artifact.metrics if m.head == line.card.default_head and m.name in FIDELITY}
        for line in lines
        if line.card and line.artifact
    }
    changed = [(title, tried, [*_by_subject(tried).values()]) for title, tried in (trials or {}).items()]
    timed = (line.latency for line in lines if line.latency)
    return {
        "cards": cards,
        "lines": lines,
        "students": students_of(lines),
        "columns": columns,
        "column": column,
        "files": [line for line in lines if line.artifact and column in line.figures],
        "clocks": dict.fromkeys(f"{row.device} ({', '.join(row.isa)}), {row.runtime}" for row in timed),
        "tables": _tables(lines, columns),
        "gate": {line: [found.get(name) for name in FIDELITY] for line, found in gate.items()},
        "gated": text.by((each for found in gate.values() for each in found.values()), "dataset", "split", "head", "n"),
        "comparisons": _comparisons(lines),
        "trials": {title: (tried, changes, _columns(changes)) for title, tried, changes in changed},
    }


def students_of(lines: Sequence[Line]) -> list[Line]:
    """One line per student, smallest first: the file that `leap_zoo.load` opens, int8 ONNX if there is one."""
    chosen = [line for line in lines if line.card and line.artifact == choose_artifact(line.card)]
    return sorted(chosen, key=lambda line: line.costs["parameters"])


def lines_of(cards: Sequence[ModelCard], figures: Sequence[Result]) -> list[Line]:
    """The teacher at each resolution, every artifact, then peers. Figures of unpublished files are left out.

    A line whose file was not measured has no figures.
    """
    measured = _by_subject(figures)
    taught_by = {card.training.teacher.name for card in cards if card.training}
    teachers, files, peers = [], [], []
    for line in measured.values():
        name = teacher_of(line.model)
        if name in taught_by:
            teachers.append(replace(line, kind=THE_TEACHER))
        elif name is not None:
            peers.append(replace(line, kind=A_PEER))
    for card, artifact in ((each, artifact) for each in cards for artifact in each.artifacts):
        costs: dict[str, float] = {"parameters": card.parameters, "pixels": card.preprocessing.size}
        costs["MB"] = artifact.total_bytes / 1e6
        timed = (row for row in card.latency if (row.file, row.threads, row.batch) == (artifact.file, 1, 1))
        found = measured.get((card.id, artifact.file, artifact.sha256))
        known = found.figures if found else {}
        files.append(
            Line(card.id, artifact.file, f"`{artifact.file}`", costs, known, card, artifact, next(timed, None))
        )
    return [*teachers, *files, *peers]


def teacher_of(model: str) -> str | None:
    """The name of the teacher or peer in `NAME at N px`; None for a model of the zoo."""
    name, at, pixels = model.rpartition(" at ")
    return name if at and pixels.endswith(" px") else None


def _by_subject(figures: Sequence[Result]) -> dict[tuple[str, str, str], Line]:
    """A line for each subject, variant and digest."""
    found = {}
    for (subject, variant, digest), rows in text.by(figures, "subject", "variant", "digest").items():
        costs = {each.metric: each.value for each in rows if each.n is None}
        if "bytes" in costs:
            costs["MB"] = costs["bytes"] / 1e6
        measured = {Column(each.metric, each.dataset, each.split): each for each in rows if each.n is not None}
        found[subject, variant, digest] = Line(subject, variant, "", costs, measured)
    return found


def _columns(lines: Sequence[Line]) -> Columns:
    known: Columns = {}
    for line in lines:
        for column, figure in line.figures.items():
            known.setdefault(column, figure.n)
    return known


def _tables(lines: Sequence[Line], columns: Columns) -> dict[str, tuple[Columns, list[Line]]]:
    """Title of a section -> its columns, and the lines that have any of them."""
    others = [column for column in columns if column.dataset not in WORLDS.values()]
    chosen = {title: [column for column in columns if column.dataset == name] for title, name in WORLDS.items()}
    chosen |= {title: [c for c in others if any(word in c.metric for word in words)] for title, words in TABLES.items()}
    return {
        title: ({column: columns[column] for column in ours}, [line for line in lines if {*ours} & {*line.figures}])
        for title, ours in chosen.items()
        if ours
    }


def _comparisons(lines: Sequence[Line]) -> dict[str, list[dict[str, Any]]]:
    """Title of a section -> each student against the next smaller one, its teacher, or peers."""
    students = [line for line in students_of(lines) if line.figures]
    close = [line for line in students if line.model == CLOSE]
    teachers, peers = ([line for line in lines if line.kind == kind] for kind in (THE_TEACHER, A_PEER))
    far = f"more than {100 * POINTS:g} points behind"
    sections = {
        "Is another project's model better?": [_compare(peer, students[-1], "behind") for peer in peers if students],
        "Is a larger student better?": [_compare(*pair, "not better") for pair in pairwise(students)],
        f"Is {CLOSE} close to its teacher?": [_compare(each, ours, far, POINTS) for ours in close for each in teachers],
    }
    return {title: pairs for title, pairs in sections.items() if pairs}


def _compare(one: Line, other: Line, said: str, margin: float = 0.0) -> dict[str, Any]:
    """The columns that both have, and those on which `other` is `said` (to be behind), with the gap.

    It is behind where it is more than the margin below; a larger student, also where it is not better.
    """
    student = one.card is not None
    gaps = {
        column: one.figures[column].value - figure.value
        for column, figure in other.figures.items()
        if column in one.figures and (student or not any(word in column.metric for word in LIKENESS))
    }
    behind = {column: gap for column, gap in gaps.items() if gap > margin or (student and gap == 0)}
    return {"one": one, "other": other, "columns": len(gaps), "said": said, "behind": behind}
