"""A gallery embedded by the teacher, asked by its student: the table of `docs/teacher-space.md`.

Both give vectors in the teacher's space. Beside it: student asks student (in either space), teacher asks teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace
from torch.nn import functional

from leap_zoo.card import Metric
from train.errors import TrainError
from train.evaluate import scores
from train.evaluate.benchmark import Cache
from train.evaluate.datasets import Task
from train.evaluate.plan import search
from train.evaluate.published import Candidate
from train.hardware import describe
from train.research.results import Result, results_of, write_results
from train.run import commit

TABLE, PAGE = "teacher_space.csv", "teacher-space.md"
BEGIN, END = "<!-- teacher-space:begin (generated; do not edit) -->", "<!-- teacher-space:end -->"
# Variant of a row, which is the title of its column -> who embeds the gallery, who the queries, and by which output.
PAIRS = {
    "student asks student, its own space": ("student", "student", "embedding"),
    "student asks student, teacher's space": ("student", "student", "teacher"),
    "**student asks teacher**": ("teacher", "student", "teacher"),
    "teacher asks teacher": ("teacher", "teacher", "teacher"),
}


def measure(student: Candidate, teacher: Candidate, tasks: Sequence[Task], cache: Cache) -> list[Result]:
    """mAP and recall@1 of every pair on every task with retrieval, and the cosine of their vectors. Raises TrainError.

    teacher: given the photos as it was when it taught this student.
    """
    both = {"student": student, "teacher": teacher}
    rows: list[Result] = []
    for task in (task for task in tasks if task.retrieval):
        where = task.test.name, task.test.split
        gallery = {name: cache.embeddings(candidate, task.train) for name, candidate in both.items()}
        queries = {name: cache.embeddings(candidate, task.test) for name, candidate in both.items()}
        for variant, (there, here, kind) in PAIRS.items():
            found = search(task, gallery[there], queries[here], kind)
            rows += _rows(both[here], variant, found.metrics(*where, kind))
        cosine = functional.cosine_similarity(queries["student"]["teacher"], queries["teacher"]["teacher"])
        rows += _rows(student, "", [scores.mean("cosine to the teacher", *where, cosine)])
        amount = float(len(gallery["student"]["labels"]))
        rows.append(replace(rows[-1], metric="photos of the gallery", n=None, value=amount, low=None, high=None))
    if not rows:
        raise TrainError("--teacher-space measures retrieval: give --retrieval NAME or --listed")
    return rows


def _rows(candidate: Candidate, variant: str, metrics: Sequence[Metric]) -> list[Result]:
    about = {"subject": candidate.model, "variant": variant, "digest": candidate.sha256}
    return results_of(metrics, about | {"hardware": describe(candidate.device), "commit": commit()})


def write(rows: Sequence[Result], results: Path, page: Path) -> None:
    """The table, and the page where it is there. Raises TrainError."""
    write_results(results, rows)
    try:
        if page.is_file():
            page.write_text(replace_table(page.read_text(), rows))
    except OSError as error:
        raise TrainError(f"cannot write {page} ({error.strerror}); choose another place") from error


def replace_table(text: str, rows: Sequence[Result]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{render(rows)}\n\n{END}{rest.partition(END)[2]}"


def render(rows: Sequence[Result]) -> str:
    """A line per data set and figure, a column per pair; per cent, 95 % intervals in brackets."""
    by = {(row.dataset, row.split, row.metric.partition(",")[0], row.variant): row for row in rows}
    lines = [
        f"| data, split | gallery | queries | figure | {' | '.join(PAIRS)} |",
        "|---" * (4 + len(PAIRS)) + "|",
    ]
    cosines = []
    for dataset, split in dict.fromkeys((row.dataset, row.split) for row in rows):
        gallery = by[dataset, split, "photos of the gallery", ""]
        cosines.append(f"{dataset} {by[dataset, split, 'cosine to the teacher', ''].value:.2f}")
        for metric, title in (("retrieval mAP", "mAP"), ("recall@1", "recall@1")):
            found = [by[dataset, split, metric, variant] for variant in PAIRS]
            cells = " | ".join(_cell(row) for row in found)
            lines.append(f"| {dataset}, {split} | {gallery.value:.0f} | {found[0].n} | {title} | {cells} |")
    first = {row.variant: row for row in reversed(rows)}
    student, teacher = first["student asks student, its own space"], first["teacher asks teacher"]
    return "\n".join(lines) + (
        f"\n\n`{student.subject}` (the file with sha256 `{student.digest[:12]}`) and {teacher.subject}; per cent, 95 % "
        f"intervals in brackets; {student.hardware}, commit `{student.commit[:12]}`. Cosine of the student's vector to "
        f"the teacher's, of the same photo, mean over the queries: {'; '.join(cosines)}."
    )


def _cell(row: Result) -> str:
    low, high = (row.value if end is None else end for end in (row.low, row.high))
    return f"{100 * row.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
