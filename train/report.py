"""The end of a training, for people: one table, teacher and strategies side by side, and what early exit saved."""

from __future__ import annotations

from pathlib import Path

import msgspec

from leap_zoo.card import Metric
from train.run import Run, RunReport, write_json


def show(runs: list[Run]) -> None:
    """Print the figures of a recipe's runs beside their teacher's."""
    reports = [run.report for run in runs]
    columns = {"teacher": reports[0].teacher_metrics} | {report.strategy: report.metrics for report in reports}
    first = reports[0].metrics[0]
    print(f"\n{reports[0].name}: {first.dataset}, {reports[0].epochs} epochs, one seed; 95 % intervals in brackets")
    print(f"{'':46}{'n':>6}" + "".join(f"{name:>22}" for name in columns))
    for row, metric in enumerate(reports[0].metrics):
        cells = "".join(f"{_cell(metrics[row]):>22}" for metrics in columns.values())
        print(f"{metric.name + ', ' + metric.split:46}{metric.n:6}{cells}")
    for run in runs:
        print(_cost(run.report) + f"; embedding: {run.info.pooling}")


def save(runs: list[Run], folder: Path) -> None:
    """Write the reports to FOLDER/NAME.json, rivals as FOLDER/NAME-STRATEGY.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, run in enumerate(runs):
        suffix = f"-{run.report.strategy}" if rank else ""
        report: msgspec.Struct = run.report
        write_json(folder / f"{run.report.name}{suffix}.json", report)


def _cell(metric: Metric) -> str:
    low, high = metric.interval or (metric.value, metric.value)
    return f"{metric.value:6.1%} [{low:.1%}, {high:.1%}]".replace("%, ", ", ").replace("%]", "]")


def _cost(report: RunReport) -> str:
    return (
        f"{report.strategy}: teacher {report.teacher_flops / 1e15:.3f} PFLOPs, {report.teacher_flops_saved:.1%} saved "
        f"by early exit; with student {report.total_flops / 1e15:.3f} PFLOPs, {report.total_flops_saved:.1%} saved; "
        f"{report.train_seconds:.0f} s at {report.images_per_second:.0f} images/s"
        + (f", {report.data_wait:.1%} of it waiting for data" if report.data_wait is not None else "")
        + f" ({report.hardware})"
    )
