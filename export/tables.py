"""`python -m export.tables [--check]`: the generated parts of README and docs, from cards and `results/`.

A part lies between two comments of its page. Its template shows files of `results/`. docs/zoo.md, its figure and the
README's table show the cards of `zoo/` beside the figures that were measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from export import latency, text
from leap_zoo.card import GENERAL, WORLD, Artifact, Latency, ModelCard
from leap_zoo.errors import LeapZooError
from leap_zoo.loading import choose_artifact
from leap_zoo.store import models
from train.errors import TrainError
from train.research.results import Result, read_results
from train.run import RunReport
from train.table import read

ROOT = Path(__file__).resolve().parent.parent
DOCS, RESULTS, ZOO = ROOT / "docs", ROOT / "results", ROOT / "zoo"
TRIALS = {  # title of a section of docs/zoo.md -> its results
    "What each change gave": "ablations.csv",
    "Against a plain `last` student of equal cost": "zoo_rivals.csv",
}
# Page of docs/, comment, template, and the files of results/ that it shows, by their names in the template.
PARTS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("teacher-space.md", "teacher-space", "teacher_space.md", {"rows": "teacher_space.csv"}),
    ("bench.md", "int8-peak", "int8_peak.md", {"rows": "int8_peak.csv"}),
    ("formats.md", "limits", "limits.md", {"tried": "limits.json"}),
    ("serving.md", "serving", "serving.md", {"bench": "serving/bench.json", "trials": "serving/resilience.json"}),
    ("your-classes.md", "fit", "fit.md", {"rows": "fit.csv"}),
    ("scale.md", "scale-training", "scale_figures.md", {"rows": "scale/training.csv"}),
    ("scale.md", "scale-cost", "scale_cost.md", {"embedding": "scale/embedding.csv", "search": "scale/search.csv"}),
    ("scale/embedding.md", "scale-embedding", "scale_figures.md", {"rows": "scale/embedding.csv"}),
    ("scale/search.md", "scale-recall", "scale_recall.md", {"rows": "scale/search.csv"}),
    ("scale/search.md", "scale-growth", "scale_growth.md", {"search": "scale/search.csv"}),
    ("scale/serving.md", "scale-serving", "scale_figures.md", {"rows": "scale/serving.csv"}),
)

CLOSE = "leap-tiny"  # the student that should be close to its teacher
POINTS = 0.05  # a student is close to its teacher if it is not further below it than this
THE_TEACHER, A_PEER = "the teacher", "a peer"
LIKENESS = ("agreement", "cosine")  # of a student to its teacher: the teacher's would be 1

# Titles of sections of docs/zoo.md: by the data set, otherwise by parts of a metric's name.
WORLDS = {WORLD: "On photos of the world", f"{WORLD}, corrupted": "On corrupted photos of the world"}
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


class Figure(msgspec.Struct, frozen=True):
    """A row of results/scale, see `tools.scale_results`."""

    subject: str
    metric: str
    value: float
    about: str = ""
    machine: str = ""
    note: str = ""

    @property
    def where(self) -> str:
        """The machine, and what else it did."""
        return self.machine + (f" ({self.note})" if self.note else "")


def main(arguments: list[str] | None = None) -> int:
    """Rewrite the tables, or with --check, exit 1 if one differs from what would be written."""
    parser = argparse.ArgumentParser(prog="python -m export.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table has drifted")
    check = parser.parse_args(arguments).check
    try:
        fresh = pages()
    except (LeapZooError, TrainError) as error:
        print(f"export.tables: {error}", file=sys.stderr)
        return 2
    drifted = [path for path, text in fresh.items() if not path.is_file() or path.read_text() != text]
    for path in drifted if not check else []:
        path.write_text(fresh[path])
    if check and drifted:
        names = ", ".join(str(path.relative_to(ROOT)) for path in drifted)
        print(f"{names}: out of date with cards and results: run `make tables`", file=sys.stderr)
    return int(check and bool(drifted))


def pages() -> dict[Path, str]:
    """The files with generated parts, as they should be. Raises LeapZooError, TrainError."""
    cards = models(ZOO)
    trials = {title: results(name) for title, name in TRIALS.items()}
    about = zoo_values(cards, [row for name in ("zoo.csv", "peers.csv") for row in results(name)], trials)
    taught = {path.stem: msgspec.json.decode(path.read_bytes(), type=RunReport) for path in RESULTS.glob("leap-*.json")}
    measured, readme = read(ROOT / latency.FILE, latency.Measured), ROOT / "README.md"
    found = {
        DOCS / "zoo.md": text.render("zoo.md", **about, measured=measured, taught=taught),
        readme: replaced(readme.read_text(), "zoo", text.render("zoo_table.md", **about)),
    }
    if about["files"]:
        found[DOCS / "images" / "zoo.svg"] = text.render("zoo.svg", **about)
    for page, block, template, files in PARTS:
        content = text.render(template, **{name: results(file) for name, file in files.items()})
        path = DOCS / page
        found[path] = replaced(found.get(path) or path.read_text(), block, content)
    return found


def results(name: str) -> Any:
    """A file of `results/`: a document of JSON, or the rows of a table. Raises TrainError."""
    path = RESULTS / name
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    return read(path, Figure) if name.startswith("scale/") else read_results(path)


def replaced(page: str, block: str, content: str) -> str:
    """The page with newly generated content between the two comments of a block."""
    begin, end = f"<!-- {block}:begin (generated by `make tables`) -->\n", f"<!-- {block}:end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(
            f"a page of README.md and docs/ has no generated block {block!r}: put its two comment lines back"
        )
    return f"{before}{begin}\n{content.rstrip()}\n\n{end}{after}"


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

    @property
    def section(self) -> str | None:
        """The title of the section that has it."""
        found = (title for title, words in TABLES.items() if any(word in self.metric for word in words))
        return WORLDS.get(self.dataset) or next(found, None)


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


def zoo_values(
    cards: Sequence[ModelCard], figures: Sequence[Result], trials: Mapping[str, Sequence[Result]] | None = None
) -> dict[str, Any]:
    """For the templates zoo.md, zoo.svg and zoo_table.md. trials: title of a section -> what was tried.

    `column` and `files` are of the picture: without files, there is none.
    """
    lines = lines_of(cards, figures)
    columns, sections = _columns(lines), text.by(_columns(lines), "section")
    column = next((c for c in sorted(columns, key=lambda c: c.dataset != WORLD) if c.metric == GENERAL), None)
    gate = {
        line: {m.name: m for m in line.artifact.metrics if m.head == line.card.default_head and m.name in FIDELITY}
        for line in lines
        if line.card and line.artifact
    }
    changed = {title: (tried, [*_by_subject(tried).values()]) for title, tried in (trials or {}).items()}
    timed = (line.latency for line in lines if line.latency)
    return {
        "cards": cards,
        "lines": lines,
        "students": students_of(lines),
        "columns": columns,
        "column": column,
        "files": [line for line in lines if line.artifact and column in line.figures],
        "clocks": dict.fromkeys(f"{row.device} ({', '.join(row.isa)}), {row.runtime}" for row in timed),
        "tables": {
            title: (sections[title], [line for line in lines if {*sections[title]} & {*line.figures}])
            for title in (*WORLDS.values(), *TABLES)
            if title in sections
        },
        "gate": {line: [found.get(name) for name in FIDELITY] for line, found in gate.items()},
        "gated": text.by((each for found in gate.values() for each in found.values()), "dataset", "split", "head", "n"),
        "comparisons": _comparisons(lines),
        "trials": {title: (tried, changes, _columns(changes)) for title, (tried, changes) in changed.items()},
    }


def lines_of(cards: Sequence[ModelCard], figures: Sequence[Result]) -> list[Line]:
    """The teacher at each resolution, every artifact, then peers. Figures of unpublished files are left out.

    A line whose file was not measured has no figures.
    """
    measured = _by_subject(figures)
    taught_by = {card.training.teacher.name for card in cards if card.training}
    others = [
        replace(line, kind=THE_TEACHER if name in taught_by else A_PEER)
        for line in measured.values()
        if (name := teacher_of(line.model))
    ]
    files = [_file(card, artifact, measured) for card in cards for artifact in card.artifacts]
    teachers, peers = ([line for line in others if line.kind == kind] for kind in (THE_TEACHER, A_PEER))
    return [*teachers, *files, *peers]


def _file(card: ModelCard, artifact: Artifact, measured: Mapping[tuple[str, str, str], Line]) -> Line:
    found = measured.get((card.id, artifact.file, artifact.sha256))
    costs = {"parameters": card.parameters, "pixels": card.preprocessing.size, "MB": artifact.total_bytes / 1e6}
    timed = (row for row in card.latency if (row.file, row.threads, row.batch) == (artifact.file, 1, 1))
    kind, figures = f"`{artifact.file}`", found.figures if found else {}
    return Line(card.id, artifact.file, kind, costs, figures, card, artifact, next(timed, None))


def students_of(lines: Sequence[Line]) -> list[Line]:
    """One line per student, smallest first: the file that `leap_zoo.load` opens, int8 ONNX if there is one."""
    chosen = [line for line in lines if line.card and line.artifact == choose_artifact(line.card)]
    return sorted(chosen, key=lambda line: line.costs["parameters"])


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


def _columns(lines: Sequence[Line]) -> dict[Column, int | None]:
    """The columns of all lines, with their numbers of photos, in the order in which they were measured."""
    return {column: figure.n for line in lines for column, figure in line.figures.items()}


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


if __name__ == "__main__":
    sys.exit(main())
