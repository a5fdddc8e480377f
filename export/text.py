"""Text and pictures from the Jinja2 templates of `templates/`, fed with cards and results.

A template may have any number of empty lines: several become one. Two functions write tables and escape their cells:
`{{ head("file", "MB") }}` and `{{ row(file.file, file.bytes|mega) }}`. Values in an `.svg` are escaped for XML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from leap_zoo.card import Artifact, Metric, ModelCard
from leap_zoo.files import write_file
from train.research.results import Result

TEMPLATES = Path(__file__).parent / "templates"
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "executorch": "ExecuTorch"}
README, CURRICULUM = "README.md", "curriculum.svg"
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


def describe(card: ModelCard, home: Path) -> None:
    """Write the files that show a card into the model's folder."""
    for name, content in described(card).items():
        write_file(home / name, content.encode())


def described(card: ModelCard) -> dict[str, str]:
    """Name -> content of the files that show a card: its README, and the picture of its curriculum if it has one."""
    results: dict[tuple[str, str, str], list[tuple[Metric, str]]] = {}
    for metric in card.artifacts[0].metrics:
        known = next((known for part, known in HUB_METRICS.items() if part in metric.name), None)
        if known is not None and not any(word in metric.name for word in NOT_HUB_METRICS):
            results.setdefault((known[0], metric.dataset, metric.split), []).append((metric, known[1]))
    found = {README: render("readme.md", card=card, results=results, measured=_measured(card))}
    if card.training and card.training.curriculum:
        found[CURRICULUM] = render("curriculum.svg", card=card, moves=card.training.curriculum)
    return found


def _measured(card: ModelCard) -> Tables:
    teacher = card.training.teacher.metrics if card.training else {}
    columns = {f"teacher, {pixels}": reached for pixels, reached in teacher.items()}
    columns |= {label(artifact): artifact.metrics for artifact in card.artifacts}
    known = {title: by(metrics, "dataset", "split", "head", "n") for title, metrics in columns.items()}
    found: Tables = {}
    for key in by((m for artifact in card.artifacts for m in artifact.metrics), "dataset", "split", "head", "n"):
        named = {title: {m.name: m for m in had[key]} for title, had in known.items() if key in had}
        names = dict.fromkeys(name for by_name in named.values() for name in by_name)
        found[key] = [*named], {name: [by_name.get(name) for by_name in named.values()] for name in names}
    return found


def render(template: str, **values: object) -> str:
    """The text of `templates/TEMPLATE`, ending in one newline. Raises jinja2.UndefinedError for an unknown name."""
    text = _ENVIRONMENT.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def line(text: object) -> str:
    """Text as one line, without its line breaks; empty for None."""
    return "" if text is None else " ".join(str(text).split())


def row(*cells: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def head(*titles: object) -> str:
    """The header of a table and the line below it."""
    return f"{row(*titles)}\n{'|---' * len(titles)}|"


def number(value: float | None, form: str = "g") -> str:
    """Formatted by a specification; empty for None. Percentages have a space: `50.0 %`."""
    return "" if value is None else format(value, form).replace("%", " %")


def numbers(values: Sequence[float | None], form: str = "g") -> list[str]:
    """Each of them, formatted alike."""
    return [number(value, form) for value in values]


def mega(value: float | None, digits: int = 2) -> str:
    """In millions; empty for None."""
    return "" if value is None else f"{value / 1e6:.{digits}f}"


def metric(found: Metric | None) -> str:
    """Its value, with its 95 % interval in brackets; empty for None. Shares are in percent, cosines as they are."""
    if found is None:
        return ""
    form = ".4f" if "cosine" in found.name else ".2%"
    interval = f" ({' to '.join(numbers(found.interval, form))})" if found.interval else ""
    return number(found.value, form) + interval


def percent(value: float, name: str) -> str:
    """A share in percent, without the sign; a cosine as it is."""
    return f"{value:.3f}" if "cosine" in name else f"{100 * value:.1f}"


def measured(found: Result | None) -> str:
    """The value of a result, with its 95 % interval in brackets; empty for None."""
    if found is None:
        return ""
    interval = [percent(each, found.metric) for each in (found.low, found.high) if each is not None]
    return percent(found.value, found.metric) + (f" [{', '.join(interval)}]" if interval else "")


def by(rows: Iterable[Any], *names: str) -> dict[Any, list[Any]]:
    """Key -> rows, in the order in which keys appear. The key is an attribute of the rows, or a tuple of several."""
    found: dict[Any, list[Any]] = {}
    for each in rows:
        key = tuple(tuple(part) if isinstance(part, list) else part for part in (getattr(each, name) for name in names))
        found.setdefault(key if len(names) > 1 else key[0], []).append(each)
    return found


def values(rows: Iterable[Any]) -> dict[str, float]:
    """Metric -> value."""
    return {each.metric: each.value for each in rows}


def label(artifact: Artifact) -> str:
    """The name of an artifact in tables."""
    return f"{RUNTIMES[artifact.format].partition(' ')[0]} {artifact.precision}"


def slug(name: str) -> str:
    """`Imagenette (160 px)` -> `imagenette`."""
    return re.sub(r"[^a-z0-9._]+", "-", re.sub(r"\(.*?\)", "", name.lower())).strip("-")


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=jinja2.select_autoescape(["svg"], default=False),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(line=line, number=number, numbers=numbers, mega=mega, metric=metric, measured=measured)
_ENVIRONMENT.filters.update(percent=percent, by=by, values=values, label=label, slug=slug, log=math.log)
_ENVIRONMENT.globals.update(row=row, head=head, runtimes=RUNTIMES)
