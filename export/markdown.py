"""Tables of Markdown, whatever is in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, with an empty line after it; nothing at all without rows."""
    body = [_row(cells) for cells in rows]
    return [_row(header), "|---" * len(header) + "|", *body, ""] if body else []


def code(language: str, text: str) -> list[str]:
    """Lines of a block of code, with an empty line after it."""
    return [f"```{language}", *text.strip("\n").splitlines(), "```", ""]


def line(text: str) -> str:
    """Text that may have line breaks, as one line."""
    return " ".join(text.split())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(line(cell).replace('|', chr(92) + '|') for cell in cells)} |"
