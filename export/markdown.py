"""Markdown: tables, whatever is in their cells, and the texts of `templates/`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).parent / "templates"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, with an empty line after it; nothing at all without rows."""
    body = [_row(cells) for cells in rows]
    return [_row(header), "|---" * len(header) + "|", *body, ""] if body else []


def template(name: str, **values: object) -> list[str]:
    """Lines of templates/NAME.md with `$key` filled in, and an empty line after them."""
    text = Template((TEMPLATES / f"{name}.md").read_text()).substitute(values)
    return [*text.rstrip("\n").splitlines(), ""]


def line(text: str) -> str:
    """Text that may have line breaks, as one line."""
    return " ".join(text.split())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(line(cell).replace('|', chr(92) + '|') for cell in cells)} |"
