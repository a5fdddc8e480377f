"""Files generated from a model's card: its README, which begins with the YAML that hubs read, and its figure."""

from __future__ import annotations

from pathlib import Path

from export import text
from leap_zoo.card import Metric, ModelCard

CURRICULUM = "curriculum.svg"
# Parts of a metric's name -> a hub's names for the task and the metric. Comparisons with other files are left out.
HUB_METRICS = {
    "linear probe": ("image-classification", "accuracy"),
    "-NN": ("image-classification", "accuracy"),
    "mAP": ("image-feature-extraction", "mean_average_precision"),
    "ecall@1": ("image-feature-extraction", "recall_at_1"),
    "top-1": ("image-classification", "accuracy"),
}
NOT_HUB_METRICS = ("drop", "agreement", "cosine")

# Data set, split, head and number of photos -> titles (artifacts, after the teacher), and a row per metric.
Tables = dict[tuple[str, str, str | None, int], tuple[list[str], dict[str, list[Metric | None]]]]


def write(card: ModelCard, home: Path) -> None:
    """Write README.md and curriculum.svg into the model's folder."""
    (home / "README.md").write_text(render(card))
    drawn = picture(card)
    if drawn is not None:
        (home / CURRICULUM).write_text(drawn)


def render(card: ModelCard) -> str:
    """The README."""
    results: dict[tuple[str, str, str], list[tuple[Metric, str]]] = {}
    for metric in card.artifacts[0].metrics:
        known = next((known for part, known in HUB_METRICS.items() if part in metric.name), None)
        if known is not None and not any(word in metric.name for word in NOT_HUB_METRICS):
            results.setdefault((known[0], metric.dataset, metric.split), []).append((metric, known[1]))
    return text.render("readme.md", card=card, results=results, measured=_measured(card))


def picture(card: ModelCard) -> str | None:
    """The curriculum as SVG; None if the card has no curriculum."""
    if card.training is None or not card.training.curriculum:
        return None
    return text.render("curriculum.svg", card=card, moves=card.training.curriculum)


def _measured(card: ModelCard) -> Tables:
    teacher = card.training.teacher.metrics if card.training else {}
    columns = {f"teacher, {pixels}": reached for pixels, reached in teacher.items()}
    columns |= {text.label(artifact): artifact.metrics for artifact in card.artifacts}
    known = {title: text.by(metrics, "dataset", "split", "head", "n") for title, metrics in columns.items()}
    found: Tables = {}
    for key in text.by((m for artifact in card.artifacts for m in artifact.metrics), "dataset", "split", "head", "n"):
        named = {title: {m.name: m for m in had[key]} for title, had in known.items() if key in had}
        names = dict.fromkeys(name for by_name in named.values() for name in by_name)
        found[key] = [*named], {name: [by_name.get(name) for by_name in named.values()] for name in names}
    return found
