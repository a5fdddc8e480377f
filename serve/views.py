"""HTML fragments of the page: what the model sees, and the model's card. Everything from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from leap_zoo import Model
from leap_zoo.card import Metric, ModelCard, Training
from serve.engine import Classified

NO_PHOTO = """
<section class="leap-empty" role="status">
  <p class="leap-empty-title">No photo yet</p>
  <p>Drop one on the left, choose a file, or paste from the clipboard. The classes appear here as bars.</p>
</section>
"""


def refusal(detail: str) -> str:
    """What is wrong with the photo, in the place of the bars."""
    return (
        '<section class="leap-empty" role="alert"><p class="leap-empty-title">This photo cannot be used</p>'
        f"<p>{escape(detail)}</p></section>"
    )


def bars(answer: Classified, precision: str) -> str:
    """The predictions as bars, best first, and how long they took."""
    best = answer.predictions[0][0]
    rows = "".join(
        f'<li><span class="leap-label">{escape(p.label)}</span>'
        f'<span class="leap-score">{_percent(p.score)}</span>'
        f'<span class="leap-track" aria-hidden="true"><span style="width:{p.score * 100:.2f}%"></span></span></li>'
        for p in answer.predictions[0]
    )
    chips = _chips([f"{answer.milliseconds:.1f} ms", precision, f"head {answer.head}"])
    return (
        f'<section class="leap-result" role="status"><p class="leap-best">{escape(best.label)}</p>'
        f'<ol class="leap-bars" aria-label="Classes, best first">{rows}</ol>{chips}</section>'
    )


def masthead(model: Model) -> str:
    """The page's title, and the model in one line."""
    card = model.card
    chips = _chips([card.id, f"{_count(card.parameters)} parameters", model.artifact.precision, _size(model)])
    return (
        '<header class="leap-masthead"><h1>LEAP Zoo</h1>'
        "<p>A small vision transformer, distilled from a large one, running on this server's CPU.</p>"
        f"{chips}</header>"
    )


def card_view(model: Model) -> str:
    """The model's card for people: figures, metrics with n and interval, training, licences, the file's digest."""
    card, artifact = model.card, model.artifact
    crop = card.preprocessing
    figures = [
        ("Parameters", _count(card.parameters)),
        ("File", f"{_size(model)} {artifact.precision}"),
        ("Input", f"{crop.size} × {crop.size} px"),
        ("Embedding", f"{card.embedding_dims.student} / {card.embedding_dims.teacher} dims"),
    ]
    tiles = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in figures)
    parts = [
        f'<h2 id="leap-card-title">Model card: {escape(card.id)}</h2><p>{escape(card.description)}</p>',
        f'<dl class="leap-tiles">{tiles}</dl>',
        _metrics(artifact.metrics),
        _training(card.training) if card.training else "",
        _facts("Licences", _licences(card)),
        _facts("File", [("Name", artifact.file), ("Revision", card.revision), ("SHA-256", artifact.sha256)]),
    ]
    return f'<section class="leap-card" aria-labelledby="leap-card-title">{"".join(parts)}</section>'


def _metrics(metrics: Iterable[Metric]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(_metric_name(metric))}</th><td>{escape(metric.dataset)}, {escape(metric.split)}"
        f"</td><td>{metric.n:,}</td><td><strong>{_value(metric, metric.value)}</strong>{_interval(metric)}</td></tr>"
        for metric in metrics
    )
    if not rows:
        return ""
    return (
        "<h3>Measured on this file</h3><div class='leap-scroll' tabindex='0' role='region' aria-label='Metrics'>"
        "<table><thead><tr><th scope='col'>Metric</th><th scope='col'>Data</th><th scope='col'>Photos</th>"
        f"<th scope='col'>Value (95 % interval)</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _metric_name(metric: Metric) -> str:
    return f"{metric.name} ({metric.head})" if metric.head else metric.name


def _value(metric: Metric, value: float) -> str:
    """Shares read as percentages; a cosine, or what is larger than 1, as a number."""
    is_share = abs(metric.value) <= 1 and "cosine" not in metric.name
    return _percent(value) if is_share else f"{value:.4g}"


def _interval(metric: Metric) -> str:
    if metric.interval is None:
        return ""
    low, high = metric.interval
    return f" <small>({_value(metric, low)} to {_value(metric, high)})</small>"


def _training(training: Training) -> str:
    rows = [
        ("Teacher", training.teacher.name),
        ("Recipe", f"{training.recipe}, {training.epochs:g} epochs, seed {training.seed}"),
        ("Curriculum", f"{training.strategy}, {_blocks(training)}"),
        ("Teacher FLOPs saved", _percent(training.teacher_flops_saved)),
        ("FLOPs in all", f"{training.total_flops:.2e}"),
    ]
    return _facts("Training", rows)


def _blocks(training: Training) -> str:
    number = len(training.curriculum)
    return f"{number} target block{'s' if number != 1 else ''}"


def _licences(card: ModelCard) -> list[tuple[str, str]]:
    licences = card.licences
    return [
        ("Code", licences.code),
        ("Weights", licences.weights),
        ("Teacher", licences.teacher),
        ("Data", licences.data),
    ]


def _facts(title: str, rows: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f'<h3>{title}</h3><dl class="leap-facts">{items}</dl>'


def _chips(texts: Iterable[str]) -> str:
    return f'<p class="leap-chips">{"".join(f"<span>{escape(text)}</span>" for text in texts)}</p>'


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"


def _size(model: Model) -> str:
    return f"{model.artifact.bytes / 1e6:.1f} MB"
