"""The part of a model's README that says what was measured: fidelity, speed, and what the search for int8 tried."""

from __future__ import annotations

from itertools import groupby

from export.markdown import line, table
from export.metric_text import cell
from leap_zoo.card import Artifact, Latency, Metric, ModelCard, Search

WORST_LAYERS = 10


def label(artifact: Artifact) -> str:
    """How an artifact is called in tables."""
    return f"{'OpenVINO' if artifact.format == 'openvino' else 'ONNX'} {artifact.precision}"


def metric_sections(card: ModelCard) -> list[str]:
    """A table per data set, split and head: a row per metric, a column per artifact, the teacher's own first."""
    lines = []
    metrics = [metric for artifact in card.artifacts for metric in artifact.metrics]
    own = card.training.teacher.metrics if card.training else {}
    columns_of = {f"teacher, {pixels}": reached for pixels, reached in own.items()}
    columns_of |= {label(artifact): artifact.metrics for artifact in card.artifacts}
    for key in dict.fromkeys(_measured_on(metric) for metric in metrics):
        dataset, split, head, n = key
        columns = {
            name: {metric.name: metric for metric in measured if _measured_on(metric) == key}
            for name, measured in columns_of.items()
        }
        columns = {name: column for name, column in columns.items() if column}
        names = dict.fromkeys(name for column in columns.values() for name in column)
        lines += [f"### {line(dataset)}, {line(split)}" + (f", head `{head}`" if head else "") + f", n = {n}", ""]
        lines += table(
            ["metric", *columns],
            ([name, *(cell(column.get(name)) for column in columns.values())] for name in names),
        )
    return ["In brackets: 95 % intervals.", "", *lines] if any(metric.interval for metric in metrics) else lines


def latency_sections(rows: list[Latency]) -> list[str]:
    """A table per device: milliseconds per call."""
    lines = []
    for (device, isa), group in groupby(sorted(rows, key=_where), key=_where):
        lines += [f"### {line(device)} ({', '.join(isa) or 'no instruction sets named'})", ""]
        lines += table(
            ["file", "runtime", "threads", "batch", "n", "min ms", "median ms", "p95 ms", "peak memory, MB"],
            (
                [
                    *(f"`{row.file}`", row.runtime, str(row.threads), str(row.batch), str(row.n)),
                    *(f"{milliseconds:.3g}" for milliseconds in (row.min_ms, row.median_ms, row.p95_ms)),
                    "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e6:.0f}",
                ]
                for row in group
            ),
        )
    return lines


def search_section(search: Search) -> list[str]:
    """Every candidate with its figures and outcome, and the layers that quantising hurts most."""
    threads = "1 thread" if search.threads == 1 else f"{search.threads} threads"
    lines = [
        f"Each way to quantise was measured against fp32 on {search.n} photos of {line(search.dataset)}, "
        f"{line(search.split)}, which no figure above is from; {search.calibration_photos} photos calibrated. The "
        f"search took {search.minutes:.1f} minutes with {threads} on {line(search.device)} ({', '.join(search.isa)}). "
        "Time is relative to the fp32 ONNX file on ONNX Runtime, batch 1.",
        "",
        *table(
            ["candidate", "format", "cosine, mean", "cosine, minimum", "agreement", "top-1 drop", "time", "outcome"],
            (
                [
                    *(c.name, f"{c.format} {c.precision}", _number(c.cosine_mean), _number(c.cosine_min)),
                    *("" if share is None else _percent(share) for share in (c.agreement, c.top1_drop)),
                    *("" if c.relative_ms is None else f"{c.relative_ms:.2f}", c.outcome),
                ]
                for c in search.candidates
            ),
        ),
    ]
    worst = sorted(search.sensitivity, key=lambda layer: layer.cosine_mean)[:WORST_LAYERS]
    if worst:
        lines += [f"The layers that hurt most when quantised alone, of {len(search.sensitivity)}:", ""]
        lines += table(
            ["layer", "cosine to fp32, mean"], ([f"`{layer.layer}`", f"{layer.cosine_mean:.5f}"] for layer in worst)
        )
    return lines


def _measured_on(metric: Metric) -> tuple[str, str, str | None, int]:
    return metric.dataset, metric.split, metric.head, metric.n


def _where(row: Latency) -> tuple[str, tuple[str, ...]]:
    return row.device, tuple(row.isa)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _number(cosine: float | None) -> str:
    return "" if cosine is None else f"{cosine:.4f}"
