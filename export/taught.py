"""What a training gave, beside its teacher, and what it cost: as Markdown."""

from __future__ import annotations

from export.markdown import table
from export.metric_text import cell
from train.run import RunReport


def training_table(report: RunReport) -> str:
    """The figures of a run beside its teacher's, and what it cost."""
    rows = [
        [f"{ours.name}, {ours.dataset}, {ours.split}", str(ours.n), cell(theirs), cell(ours)]
        for theirs, ours in zip(report.teacher_metrics, report.metrics, strict=True)
    ]
    cost = (
        f"{report.epochs} epochs of {report.train_photos} photos, seed {report.seed} (one seed), on "
        f"{report.hardware}: {report.train_seconds / 60:.0f} min. Early exit saved {report.teacher_flops_saved:.1%} of "
        f"the teacher's FLOPs, {report.total_flops_saved:.1%} of all ({report.total_flops / 1e15:.3g} PFLOPs run)."
    )
    titles = [f"`{report.name}`, strategy `{report.strategy}`", "n", "teacher", "student"]
    return "\n".join([*table(titles, rows), cost])
