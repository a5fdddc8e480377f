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

from leap_zoo.card import Artifact, Metric
from train.research.results import Result

TEMPLATES = Path(__file__).parent / "templates"
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "executorch": "ExecuTorch"}


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
