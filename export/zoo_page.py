"""`docs/zoo.md`, its figure and the README's table, from the cards of `zoo/` and the figures of `results/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from export import text
from export.latency import Measured
from leap_zoo.card import GENERAL, WORLD, Artifact, Latency, Metric, ModelCard
from leap_zoo.loading import choose_artifact
from train.research.results import Result
from train.run import RunReport

PICTURE = "zoo.svg"  # in docs/images
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


@dataclass(frozen=True, eq=False)
class Line:
    """A published file with its figures by column, and its costs. The teacher and a `peer` have no card.

    A peer is another project's model that a user might choose instead.
    """

    model: str
    file: str
    costs: dict[str, float]
    figures: dict[Column, Result] = field(default_factory=dict)
    card: ModelCard | None = None
    artifact: Artifact | None = None
    peer: bool = False

    @property
    def latency(self) -> Latency | None:
        """For one photo on one thread, if the card has it."""
        rows = self.card.latency if self.card else []
        return next((row for row in rows if (row.file, row.threads, row.batch) == (self.file, 1, 1)), None)

    @property
    def kind(self) -> str:
        """The file in a table, or what the line is of instead."""
        return f"`{self.file}`" if self.card else "a peer" if self.peer else "the teacher"

    @property
    def ms(self) -> float | None:
        """The median for one photo on one thread."""
        return self.latency.median_ms if self.latency else None

    @property
    def megabytes(self) -> float | None:
        """Of its files."""
        return self.costs["bytes"] / 1e6 if "bytes" in self.costs else None

    def cells(self, columns: Sequence[Column]) -> list[str]:
        """For each column the value, with its 95 % interval in brackets; empty if it was not measured."""
        return [text.measured(self.figures.get(column)) for column in columns]


def lines_of(cards: Iterable[ModelCard], figures: Sequence[Result]) -> list[Line]:
    """The teacher at each resolution, every artifact, then peers. Figures of unpublished files are left out.

    A line whose file was not measured has no figures.
    """
    measured = _by_subject(figures)
    published = {card.id: card for card in cards}
    taught_by = {card.training.teacher.name for card in published.values() if card.training}
    others = [
        Line(*key[:2], line.costs, line.figures, peer=name not in taught_by)
        for key, line in measured.items()
        if (name := teacher_of(line.model)) is not None
    ]
    lines = [line for line in others if not line.peer]
    for card in published.values():
        for artifact in card.artifacts:
            found = measured.get((card.id, artifact.file, artifact.sha256))
            costs: dict[str, float] = {"parameters": card.parameters, "bytes": artifact.total_bytes}
            costs["pixels"] = card.preprocessing.size
            lines.append(Line(card.id, artifact.file, costs, found.figures if found else {}, card, artifact))
    return [*lines, *(line for line in others if line.peer)]


def teacher_of(model: str) -> str | None:
    """The name of the teacher or peer in `NAME at N px`; None for a model of the zoo."""
    name, at, pixels = model.rpartition(" at ")
    return name if at and pixels.endswith(" px") else None


def students_of(lines: Sequence[Line]) -> list[Line]:
    """One line per student, smallest first: the file that `leap_zoo.load` opens, int8 ONNX if there is one."""
    chosen = [line for line in lines if line.card and line.artifact == choose_artifact(line.card)]
    return sorted(chosen, key=lambda line: line.costs["parameters"])


def render(
    cards: Sequence[ModelCard],
    lines: Sequence[Line],
    trials: Mapping[str, Sequence[Result]],
    speed: Sequence[Measured] = (),
    taught: Mapping[str, RunReport] | None = None,
) -> str:
    """The page. trials: title of a section -> what was tried. taught: model -> its training."""
    gate = {line: _gate(line.card, line.artifact) for line in lines if line.card and line.artifact}
    return text.render(
        "zoo.md",
        cards=cards,
        lines=lines,
        picture=PICTURE,
        clock=_clock(lines),
        tables=_tables(lines),
        gate={line: [found.get(name) for name in FIDELITY] for line, found in gate.items()},
        gated=text.by((each for found in gate.values() for each in found.values()), "dataset", "split", "head", "n"),
        measured=speed,
        comparisons=_comparisons(lines),
        trials={title: _trials(tried) for title, tried in trials.items()},
        taught=taught or {},
    )


def compact_table(lines: Sequence[Line]) -> str:
    """The README's table: for each student the file that is loaded by default, its costs, and two figures."""
    columns = [Column(GENERAL, WORLD, "test"), Column("retrieval mAP, embedding", "grocery", "test")]
    return text.render(
        "zoo_table.md",
        lines=[*students_of(lines), *(line for line in lines if line.card is None and line.costs)],
        columns=columns,
        known=_columns(lines),
        clock=_clock(lines),
        picture=PICTURE,
    )


def picture(lines: Sequence[Line]) -> str | None:
    """Top-1 of every file against its milliseconds and megabytes, as SVG; None if no file was measured."""
    known = _columns(lines)
    column = next((c for c in sorted(known, key=lambda c: c.dataset != WORLD) if c.metric == GENERAL), None)
    files = [line for line in lines if line.artifact and column in line.figures]
    if column is None or not files:
        return None
    return text.render(
        "zoo.svg",
        title=f"{column.title}, n = {known[column]}",
        column=column,
        files=files,
        models=list(dict.fromkeys(line.model for line in files)),
        teachers=[line for line in lines if line.kind == "the teacher" and column in line.figures],
    )


class Compared(NamedTuple):
    """Two lines, how many `columns` both have, and those on which `other` is `said` (to be behind), with the gap."""

    one: Line
    other: Line
    columns: int
    said: str
    behind: dict[Column, float]


def _comparisons(lines: Sequence[Line]) -> dict[str, list[Compared]]:
    """Title of a section -> each student against the next smaller one, its teacher, or peers."""
    students = [line for line in students_of(lines) if line.figures]
    teachers = [line for line in lines if line.kind == "the teacher"]
    peers = [line for line in lines if line.peer]
    close = [line for line in students if line.model == CLOSE]
    far = f"more than {100 * POINTS:g} points behind"
    sections = {
        "Is another project's model better?": [_compare(peer, students[-1], "behind") for peer in peers if students],
        "Is a larger student better?": [_compare(*pair, "not better") for pair in pairwise(students)],
        f"Is {CLOSE} close to its teacher?": [_compare(each, ours, far, POINTS) for ours in close for each in teachers],
    }
    return {title: pairs for title, pairs in sections.items() if pairs}


def _compare(one: Line, other: Line, said: str, margin: float = 0.0) -> Compared:
    """`other` is behind where it is more than the margin below; a larger student, also where it is not better."""
    student = one.card is not None
    gaps = {
        column: one.figures[column].value - figure.value
        for column, figure in other.figures.items()
        if column in one.figures and (student or not any(word in column.metric for word in LIKENESS))
    }
    behind = {column: gap for column, gap in gaps.items() if gap > margin or (student and gap == 0)}
    return Compared(one, other, len(gaps), said, behind)


def _trials(tried: Sequence[Result]) -> tuple[list[Line], list[Column], list[str]]:
    """A line per change of a recipe, the first being the baseline; the figures; and notes."""
    lines = list(_by_subject(tried).values())
    counts = dict.fromkeys(f"{t.dataset}, {t.split}: n = {t.n}" for t in tried if t.n is not None)
    where = dict.fromkeys(f"{trial.hardware}, commit `{trial.commit[:12]}`" for trial in tried)
    return lines, list(_columns(lines)), [*counts, "shares in percent, 95 % intervals in brackets", *where]


def _by_subject(figures: Sequence[Result]) -> dict[tuple[str, str, str], Line]:
    """A line for each subject, variant and digest."""
    return {
        (subject, variant, digest): Line(
            subject,
            variant,
            {each.metric: each.value for each in same if each.n is None},
            {Column(each.metric, each.dataset, each.split): each for each in same if each.n is not None},
        )
        for (subject, variant, digest), same in text.by(figures, "subject", "variant", "digest").items()
    }


def _tables(lines: Sequence[Line]) -> dict[str, tuple[dict[Column, int | None], list[Line]]]:
    """Title of a section -> its columns with their numbers of photos, and the lines that have any of them."""
    known = _columns(lines)
    others = [column for column in known if column.dataset not in WORLDS.values()]
    chosen = {title: [column for column in known if column.dataset == name] for title, name in WORLDS.items()}
    chosen |= {title: [c for c in others if any(word in c.metric for word in words)] for title, words in TABLES.items()}
    return {
        title: ({column: known[column] for column in columns}, [line for line in lines if {*columns} & {*line.figures}])
        for title, columns in chosen.items()
        if columns
    }


def _columns(lines: Sequence[Line]) -> dict[Column, int | None]:
    """All columns, in the order in which they were measured, with their numbers of photos."""
    known: dict[Column, int | None] = {}
    for line in lines:
        for column, figure in line.figures.items():
            known.setdefault(column, figure.n)
    return known


def _gate(card: ModelCard, artifact: Artifact) -> dict[str, Metric]:
    """The gate's figures of a file when it was published, with the default head, by name."""
    return {m.name: m for m in artifact.metrics if m.head == card.default_head and m.name in FIDELITY}


def _clock(lines: Sequence[Line]) -> str:
    timed = dict.fromkeys(
        f"{row.device} ({', '.join(row.isa)}), {row.runtime}" for line in lines if (row := line.latency) is not None
    )
    return f"ms: median of a photo, one thread, from the cards ({'; '.join(timed)})." if timed else ""
