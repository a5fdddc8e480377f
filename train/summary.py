"""The end of a training, for people: a table of student and teacher, and what early exit saved."""

from __future__ import annotations

from leap_zoo.card import Metric
from train.run import Run


def show(run: Run) -> None:
    """Print a run's figures beside its teacher's."""
    report = run.report
    print(f"\n{report.name}: {report.metrics[0].dataset}, {report.epochs} epochs, one seed; 95 % intervals in brackets")
    print(f"{'':46}{'n':>6}{'teacher':>22}{report.strategy:>22}")
    for ours, theirs in zip(report.metrics, report.teacher_metrics, strict=True):
        print(f"{ours.name + ', ' + ours.split:46}{ours.n:6}{_cell(theirs):>22}{_cell(ours):>22}")
    waiting = f", {report.data_wait:.1%} of it waiting for data" if report.data_wait is not None else ""
    print(
        f"teacher {report.teacher_flops / 1e15:.3f} PFLOPs, {report.teacher_flops_saved:.1%} saved by early exit; with "
        f"student {report.total_flops / 1e15:.3f} PFLOPs, {report.total_flops_saved:.1%} saved; "
        f"{report.train_seconds:.0f} s at {report.images_per_second:.0f} images/s{waiting} ({report.hardware}); "
        f"embedding: {run.info.pooling}"
    )


def _cell(metric: Metric) -> str:
    low, high = metric.interval or (metric.value, metric.value)
    return f"{metric.value:6.1%} [{100 * low:.1f}, {100 * high:.1f}]"
