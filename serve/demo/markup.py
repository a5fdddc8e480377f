"""HTML that several tabs share. Everything from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from gradio.events import EventData

# One listener on the component, which lives on when its content is replaced.
TRIGGER_CLICK = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-id]');
  if (button) trigger('click', { id: button.dataset.id });
});
"""


def chips(texts: Iterable[str]) -> str:
    """Short facts in a row."""
    return f'<p class="leap-chips">{"".join(f"<span>{escape(text)}</span>" for text in texts)}</p>'


def facts(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A titled list of names and values."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f'<h3>{escape(title)}</h3><dl class="leap-facts">{items}</dl>'


def table(name: str, head: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """A table that scrolls on its own where the page is narrow: rows of a heading, and of cells that are HTML."""
    columns = "".join(f"<th scope='col'>{escape(column)}</th>" for column in head)
    body = "".join(
        f"<tr><th scope='row'>{escape(title)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for title, cells in rows
    )
    return (
        f"<div class='leap-scroll' tabindex='0' role='region' aria-label='{escape(name)}'>"
        f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def thumbnails(name: str, pictures: Iterable[tuple[str, str, str]], pressed: str | None = None) -> str:
    """Photos as buttons: (id, what it is called, its data: address); a click on one triggers `click` with its id.

    pressed: the id of the chosen one, where one can be; "" for none yet.
    """
    buttons = "".join(
        f'<button type="button" class="leap-thumb" data-id="{escape(key)}" aria-label="{escape(title)}" '
        f'title="{escape(title)}"{_pressed(key, pressed)}>'
        f'<img src="{source}" alt="" loading="lazy" decoding="async"></button>'
        for key, title, source in pictures
    )
    return f'<div class="leap-strip" role="group" aria-label="{escape(name)}">{buttons}</div>'


def _pressed(key: str, pressed: str | None) -> str:
    return "" if pressed is None else f' aria-pressed="{str(key == pressed).lower()}"'


def clicked(event: EventData) -> str:
    """The id of the photo that was clicked; a client can send any text."""
    data = event._data
    return str(data.get("id")) if isinstance(data, dict) else ""


def note(text: str, *, alert: bool = False) -> str:
    """A sentence beside what it is about; an alert is read out at once."""
    kind = ' leap-alert" role="alert' if alert else '" role="status'
    return f'<p class="leap-note{kind}">{escape(text)}</p>'


def empty(title: str, text: str, *, alert: bool = False) -> str:
    """What stands where a result would be: nothing yet, or what is wrong."""
    role = "alert" if alert else "status"
    return (
        f'<section class="leap-empty" role="{role}"><p class="leap-empty-title">{escape(title)}</p>'
        f"<p>{escape(text)}</p></section>"
    )


def percent(share: float) -> str:
    """A share in 0..1 for people."""
    return f"{round(share * 100, 1) + 0.0:.1f} %"  # no -0.0


def count(number: int) -> str:
    """A large number for people."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"


def megabytes(size: int) -> str:
    """A file's size for people."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"
