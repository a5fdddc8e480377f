"""Files generated from a model's card: its README, which begins with the YAML that hubs read, and its figure."""

from __future__ import annotations

import re
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


def write(card: ModelCard, home: Path) -> None:
    """Write README.md and curriculum.svg into the model's folder."""
    (home / "README.md").write_text(render(card))
    drawn = picture(card)
    if drawn is not None:
        (home / CURRICULUM).write_text(drawn)


def render(card: ModelCard) -> str:
    """Markdown, after the YAML from which a hub builds its search and results; figures in it are of the first file."""
    tolerance = card.golden.tolerance
    instructions = list(dict.fromkeys(isa for by_isa in tolerance.values() for isa in by_isa))
    return text.render(
        "readme.md",
        card=card,
        formats=text.by(card.artifacts, "format"),
        datasets=dict.fromkeys(text.slug(metric.dataset) for metric in card.artifacts[0].metrics if metric.head),
        results=_for_hubs(card.artifacts[0].metrics),
        size=card.preprocessing.size,
        spec=card.preprocessing,
        dims=card.embedding_dims,
        tools=sorted({f"{tool} {version}" for a in card.artifacts for tool, version in a.tools.items()}),
        measured=_measured(card),
        variables={head.name: re.sub(r"\W", "_", head.output, flags=re.ASCII) for head in card.heads},
        instructions=instructions,
        tolerances={
            name: text.numbers([by_isa.get(isa) for isa in instructions]) for name, by_isa in tolerance.items()
        },
        figure=CURRICULUM,
    )


def picture(card: ModelCard) -> str | None:
    """The curriculum as SVG; None if the card has no curriculum."""
    if card.training is None or not card.training.curriculum:
        return None
    title = f"{card.id}: the target block of {card.training.teacher.name}, and why it moved"
    return text.render("curriculum.svg", title=title, moves=card.training.curriculum)


def _for_hubs(metrics: list[Metric]) -> dict[tuple[str, str, str], list[tuple[Metric, str]]]:
    """Task, data set and split -> metrics, with their names at hubs."""
    found: dict[tuple[str, str, str], list[tuple[Metric, str]]] = {}
    for metric in metrics:
        known = next((known for part, known in HUB_METRICS.items() if part in metric.name), None)
        if known is not None and not any(word in metric.name for word in NOT_HUB_METRICS):
            found.setdefault((known[0], metric.dataset, metric.split), []).append((metric, known[1]))
    return found


def _measured(
    card: ModelCard,
) -> dict[tuple[str, str, str | None, int], tuple[list[str], dict[str, list[Metric | None]]]]:
    """Data set, split, head and number of photos -> titles (artifacts, after the teacher), and a row per metric."""
    teacher = card.training.teacher.metrics if card.training else {}
    columns = {f"teacher, {pixels}": reached for pixels, reached in teacher.items()}
    columns |= {text.label(artifact): artifact.metrics for artifact in card.artifacts}
    known = {title: text.by(metrics, "dataset", "split", "head", "n") for title, metrics in columns.items()}
    found = {}
    for key in dict.fromkeys(key for artifact in card.artifacts for key in known[text.label(artifact)]):
        named = {title: {m.name: m for m in had[key]} for title, had in known.items() if key in had}
        names = dict.fromkeys(name for by_name in named.values() for name in by_name)
        found[key] = list(named), {name: [by_name.get(name) for by_name in named.values()] for name in names}
    return found
