"""For `make docs`: hooks of MkDocs and an extension of mkdocstrings that fit this repository's documents to a website.

Documents link to files of the checkout outside docs/, which a website does not have. Such a link becomes plain text,
and such a picture is added to the site; a link whose target does not exist is an error. Docstrings explain a parameter
in a line that begins with its name; on the site, these lines become lists.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LOG = logging.getLogger("mkdocs.hooks.docs_site")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_PARAMETER = re.compile(r"^(`?[a-z_]\w*`?(?:, `?[a-z_]\w*`?)*): (?=\S)")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links that lead out of docs/, or to a file that the website leaves out."""
    here = Path(page.file.abs_src_path or ".").parent

    def replaced(match: re.Match[str]) -> str:
        is_image, text, target, _ = match.groups()
        path = Path(os.path.normpath(here / target))
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        if path.is_relative_to(config.docs_dir):
            file = files.get_file_from_path(path.relative_to(config.docs_dir).as_posix())
            return text if file is not None and file.inclusion.is_excluded() else match[0]
        if not path.is_relative_to(ROOT) or not path.exists():
            LOG.warning("%s links to %s, which does not exist", page.file.src_uri, target)
            return match[0]
        if not is_image:
            return text
        inside = f"files/{path.relative_to(ROOT).as_posix()}"
        if files.get_file_from_path(inside) is None:
            files.append(File.generated(config, inside, abs_src_path=str(path)))
        return f"![{text}]({os.path.relpath(inside, Path(page.file.src_uri).parent)})"

    parts = _FENCED.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(replaced, part) for number, part in enumerate(parts))


class Docstrings(griffe.Extension):
    """Turn the parameter lines of docstrings into lists."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class or function that was just read."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """A docstring as Markdown: each parameter is a list item, and `Raises` begins a paragraph."""
    lines: list[str] = []
    in_list = False
    for line in docstring.splitlines():
        found = _PARAMETER.match(line)
        if found:
            lines += ["", f"- **{found[1]}**: {line[found.end() :]}"]
            in_list = True
        elif line.startswith(("Raises ", "Returns ")):
            lines += ["", line]
            in_list = False
        elif in_list and line and not line.startswith(" "):
            lines.append(f"  {line}")
        else:
            in_list = in_list and bool(line)
            lines.append(line)
    return "\n".join(lines)
