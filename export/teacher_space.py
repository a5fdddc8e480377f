"""The table of `docs/teacher-space.md`: a student asks its teacher's gallery, and one of its own."""

from __future__ import annotations

from collections.abc import Sequence

from export.markdown import table
from train.research.results import Result


def render(rows: Sequence[Result]) -> str:
    """A line per data set and figure, a column per pair; per cent, 95 % intervals in brackets."""
    by = {(row.dataset, row.split, row.metric.partition(",")[0], row.variant): row for row in rows}
    pairs = list(dict.fromkeys(row.variant for row in rows if " asks " in row.variant))
    lines, cosines = [], []
    for where in dict.fromkeys((row.dataset, row.split) for row in rows if row.variant in pairs):
        photos = by[*where, "photos of the gallery", ""].value
        cosines.append(f"{where[0]} {by[*where, 'cosine to the teacher', ''].value:.2f}")
        for metric, title in (("retrieval mAP", "mAP"), ("recall@1", "recall@1")):
            found = [by[*where, metric, pair] for pair in pairs]
            lines.append([", ".join(where), f"{photos:.0f}", str(found[0].n), title, *map(_cell, found)])
    first = {row.variant: row for row in reversed(rows)}
    student, teacher = first[pairs[0]], first[pairs[-1]]
    return "\n".join(table(["data, split", "gallery", "queries", "figure", *pairs], lines)) + (
        f"\n`{student.subject}` (the file with sha256 `{student.digest[:12]}`) and {teacher.subject}; per cent, 95 % "
        f"intervals in brackets; {student.hardware}, commit `{student.commit[:12]}`. Cosine of the student's vector to "
        f"the teacher's, of the same photo, mean over the queries: {'; '.join(cosines)}."
    )


def _cell(row: Result) -> str:
    low, high = (row.value if end is None else end for end in (row.low, row.high))
    return f"{100 * row.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
