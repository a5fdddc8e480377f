"""Files generated from a model's card: its README, which begins with the YAML that hubs read, and its figure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from export import figures, text
from export import zoo as publishing
from leap_zoo.card import Latency, Metric, ModelCard

# Licenses by the names that hubs know; any other is `other`, with its name in `license_name`.
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0")
# Parts of a metric's name -> a hub's names for the task and the metric. Comparisons with other files are left out.
HUB_METRICS = {
    "linear probe": ("image-classification", "accuracy"),
    "-NN": ("image-classification", "accuracy"),
    "mAP": ("image-feature-extraction", "mean_average_precision"),
    "ecall@1": ("image-feature-extraction", "recall_at_1"),
    "top-1": ("image-classification", "accuracy"),
}
NOT_HUB_METRICS = ("drop", "agreement", "cosine")
Columns = dict[str, dict[str, Metric]]  # title of a column -> metric by name


def list_model(card: ModelCard, zoo: Path) -> None:
    """Write README, figure, card.json and index; the card's files must be in the zoo. Raises ArtifactCorrupt."""
    home = zoo / card.id
    (home / "README.md").write_text(render(card))
    picture = figures.curriculum(card)
    if picture is not None:
        (home / figures.CURRICULUM).write_bytes(picture)
    publishing.publish(zoo, card)


def render(card: ModelCard) -> str:
    """Markdown, after the YAML that hubs read."""
    metrics = [metric for artifact in card.artifacts for metric in artifact.metrics]
    return text.render(
        "readme.md",
        card=card,
        front=yaml.safe_dump(metadata(card), sort_keys=False, allow_unicode=True, width=120).rstrip(),
        size=card.preprocessing.size,
        spec=card.preprocessing,
        dims=card.embedding_dims,
        tools=sorted({f"{tool} {version}" for a in card.artifacts for tool, version in a.tools.items()}),
        measured=_measured(card),
        intervals=any(metric.interval for metric in metrics),
        names_of=_by_name,
        latency=[(where, list(rows)) for where, rows in groupby(sorted(card.latency, key=_where), key=_where)],
        variables={head.name: re.sub(r"\W", "_", head.output, flags=re.ASCII) for head in card.heads},
        tolerances=_tolerances(card),
        figure=figures.CURRICULUM,
    )


def metadata(card: ModelCard) -> dict[str, Any]:
    """The front matter, from which a hub builds its search and results. Figures are of the first file."""
    licence = card.licences.weights.lower()
    known = licence in HUB_LICENCES
    formats = dict.fromkeys(artifact.format for artifact in card.artifacts)
    figures = [(metric, *found) for metric in card.artifacts[0].metrics if (found := _hub_metric(metric))]
    own = dict.fromkeys(_slug(metric.dataset) for metric in card.artifacts[0].metrics if metric.head)
    return {
        "license": licence if known else "other",
        **({} if known else {"license_name": _slug(licence)}),
        **({"library_name": "timm"} if card.timm else {}),
        "pipeline_tag": "image-classification",
        "tags": [
            *("leap-zoo", "vision-transformer", "knowledge-distillation", "image-feature-extraction"),
            *(["timm", "safetensors"] if card.timm else []),
            *formats,
        ],
        **({"datasets": list(own)} if own else {}),
        **({"metrics": list(dict.fromkeys(kind for _, _, kind in figures))} if figures else {}),
        **({"model-index": [{"name": card.id, "results": _results(figures)}]} if figures else {}),
    }


def _hub_metric(metric: Metric) -> tuple[str, str] | None:
    if any(word in metric.name for word in NOT_HUB_METRICS):
        return None
    return next((known for part, known in HUB_METRICS.items() if part in metric.name), None)


def _results(figures: Sequence[tuple[Metric, str, str]]) -> list[dict[str, Any]]:
    """One result per task, data set and split, with its metrics."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for metric, task, kind in figures:
        name = f"{metric.name}, head {metric.head}" if metric.head else metric.name
        entry = {"type": kind, "value": round(metric.value, 5), "name": name}
        found.setdefault((task, metric.dataset, metric.split), []).append(entry)
    return [
        {
            "task": {"type": task},
            "dataset": {"name": dataset, "type": _slug(dataset), "split": split},
            "metrics": metrics,
        }
        for (task, dataset, split), metrics in found.items()
    ]


def _slug(name: str) -> str:
    """`Imagenette (160 px)` -> `imagenette`."""
    return re.sub(r"[^a-z0-9._]+", "-", re.sub(r"\(.*?\)", "", name.lower())).strip("-")


def _measured(card: ModelCard) -> list[tuple[tuple[str, str, str | None, int], Columns]]:
    """For each data set, split, head and number of photos: a column per artifact, after the teacher's."""
    own = card.training.teacher.metrics if card.training else {}
    columns = {f"teacher, {pixels}": reached for pixels, reached in own.items()}
    columns |= {text.label(artifact): artifact.metrics for artifact in card.artifacts}
    keys = dict.fromkeys(_key(metric) for artifact in card.artifacts for metric in artifact.metrics)
    found = ((key, {name: {m.name: m for m in had if _key(m) == key} for name, had in columns.items()}) for key in keys)
    return [(key, {name: column for name, column in by_title.items() if column}) for key, by_title in found]


def _by_name(columns: Mapping[str, Mapping[str, Metric]]) -> Iterator[tuple[str, list[Metric | None]]]:
    """One row per metric: its name and its value in each column."""
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        yield name, [column.get(name) for column in columns.values()]


def _tolerances(card: ModelCard) -> list[list[str]]:
    """The titles, then one row per precision: the tolerance on each instruction set."""
    sets = list(dict.fromkeys(isa for by_isa in card.golden.tolerance.values() for isa in by_isa))
    rows = [[name, *(text.number(by_isa.get(isa)) for isa in sets)] for name, by_isa in card.golden.tolerance.items()]
    return [["precision", *sets], *rows]


def _key(metric: Metric) -> tuple[str, str, str | None, int]:
    return metric.dataset, metric.split, metric.head, metric.n


def _where(row: Latency) -> tuple[str, tuple[str, ...]]:
    return row.device, tuple(row.isa)
