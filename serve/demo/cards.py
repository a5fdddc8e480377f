"""A model's card for people: figures, what was measured on each file, speed, licences, and the files to take home."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from urllib.parse import quote

from leap_zoo.card import Artifact, File, Latency, Metric, ModelCard, Training
from serve.demo.markup import count, facts, megabytes, percent, table

NOT_HERE = "<small>Not on this server</small>"


def card_view(card: ModelCard, files: str, offered: Callable[[File], bool], browser: str | None = None) -> str:
    """The card as a section.

    files: the address below which the zoo's files are served; offered: whether one is there; browser: the address of
    the page that runs an ONNX file in the browser, which is then linked to.
    """
    crop = card.preprocessing
    figures = [
        ("Parameters", count(card.parameters)),
        ("Smallest file", megabytes(min(artifact.total_bytes for artifact in card.artifacts))),
        ("Input", f"{crop.size} × {crop.size} px"),
        ("Embedding, student / teacher", f"{card.embedding_dims.student} / {card.embedding_dims.teacher}"),
    ]
    tiles = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in figures)
    parts = [
        f'<h2 id="leap-card-title">{escape(card.id)}</h2><p>{escape(card.description)}</p>',
        f'<dl class="leap-tiles">{tiles}</dl>',
        _browser_link(card, browser, offered) if browser else "",
        _files(card, files, offered),
        _metrics(card.artifacts),
        _latency(card),
        _training(card.training) if card.training else "",
        facts("Licences", _licences(card)),
    ]
    return f'<section class="leap-card" aria-labelledby="leap-card-title">{"".join(parts)}</section>'


def _browser_link(card: ModelCard, address: str, offered: Callable[[File], bool]) -> str:
    if not any(artifact.format == "onnx" and offered(artifact) for artifact in card.artifacts):
        return ""
    return (
        f'<p class="leap-run"><a class="leap-button" href="{escape(address)}?model={quote(card.id)}">'
        "Run it in this browser</a> <small>On this device: no photo leaves it.</small></p>"
    )


def _files(card: ModelCard, address: str, offered: Callable[[File], bool]) -> str:
    """Every file of every artifact with what it must hash to, and a download of those that are here."""
    items = "".join(
        f"<li><span><strong>{escape(file.file)}</strong> "
        f"<small>{_kind(artifact, file)}, {megabytes(file.bytes)}</small>"
        f'<code class="leap-sha">sha256 {file.sha256}</code></span>'
        f"{_download(f'{address}/{card.id}/{file.file}', file.file) if offered(file) else NOT_HERE}</li>"
        for artifact in card.artifacts
        for file in artifact.files
    )
    return f'<h3>Files of revision {escape(card.revision)}</h3><ul class="leap-files">{items}</ul>'


def _download(address: str, name: str) -> str:
    return (
        f'<a class="leap-button" href="{escape(address)}" download>Download'
        f'<span class="leap-hidden"> {escape(name)}</span></a>'
    )


def _kind(artifact: Artifact, file: File) -> str:
    kind = {"onnx": "ONNX", "openvino": "OpenVINO"}[artifact.format]
    return f"{kind}, {artifact.precision}" + ("" if file is artifact else ", weights")


def _metrics(artifacts: Iterable[Artifact]) -> str:
    """One row per measurement, one column per file it was made on."""
    columns = [artifact for artifact in artifacts if artifact.metrics]
    if not columns:
        return ""
    by_file = [{_key(metric): metric for metric in artifact.metrics} for artifact in columns]
    keys = list(dict.fromkeys(key for metrics in by_file for key in metrics))
    rows = []
    for key in keys:
        first = next(metrics[key] for metrics in by_file if key in metrics)
        cells = [_cell(metrics.get(key)) for metrics in by_file]
        rows.append((_metric_name(first), [*cells, f"{first.n:,}", f"{escape(first.dataset)}, {escape(first.split)}"]))
    heads = ["Measured on each file", *(_column(artifact) for artifact in columns), "Photos", "Data"]
    return "<h3>Accuracy, with 95 % intervals</h3>" + table("Accuracy", heads, rows)


def _key(metric: Metric) -> tuple[str, str | None, str, str]:
    return metric.name, metric.head, metric.dataset, metric.split


def _column(artifact: Artifact) -> str:
    return f"{artifact.precision} {'OpenVINO' if artifact.format == 'openvino' else 'ONNX'}"


def _metric_name(metric: Metric) -> str:
    return f"{metric.name} ({metric.head})" if metric.head else metric.name


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "<small>—</small>"
    value = f"<strong>{_value(metric, metric.value)}</strong>"
    if metric.interval is None:
        return value
    low, high = metric.interval
    return f"{value}<br><small>{_value(metric, low)} to {_value(metric, high)}</small>"


def _value(metric: Metric, value: float) -> str:
    """Shares read as percentages; a cosine, or what is larger than 1, as a number."""
    is_share = abs(metric.value) <= 1 and "cosine" not in metric.name
    return percent(value) if is_share else f"{value:.4g}"


def _latency(card: ModelCard) -> str:
    rows = [
        (row.file, [f"{row.median_ms:.2f}", f"{row.p95_ms:.2f}", str(row.threads), str(row.batch), escape(_where(row))])
        for row in card.latency
    ]
    heads = ["File", "Median ms", "95 % within", "Threads", "Batch", "Measured on"]
    return "<h3>Speed where it was measured</h3>" + table("Speed", heads, rows) if rows else ""


def _where(row: Latency) -> str:
    return f"{row.device} ({', '.join(row.isa)}), {row.runtime}"


def _training(training: Training) -> str:
    number = len({step.block for step in training.curriculum})
    rows = [
        ("Teacher", training.teacher.name),
        ("Recipe", f"{training.recipe}, {training.epochs:g} epochs, seed {training.seed}"),
        ("Curriculum", f"{training.strategy}, {number} target block{'s' if number != 1 else ''}"),
        ("Teacher FLOPs saved", percent(training.teacher_flops_saved)),
        ("FLOPs in all", f"{training.total_flops:.2e}"),
    ]
    return facts("Training", rows)


def _licences(card: ModelCard) -> list[tuple[str, str]]:
    licences = card.licences
    return [
        ("Code", licences.code),
        ("Weights", licences.weights),
        ("Teacher", licences.teacher),
        ("Data", licences.data),
    ]
