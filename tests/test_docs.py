"""The website of the documents builds without a warning, and loads nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
for needed in ("mkdocs", "material", "mkdocstrings"):
    pytest.importorskip(needed, reason="needs the extra: pip install leap-zoo[docs]")

LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[^ >]?(?:https?:)?//"
    r"|<link\b[^>]*rel=.?(?:stylesheet|preload|preconnect|icon)[^>]*href=.?(?:https?:)?//"
)


def test_site__builds_strictly_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "WARNING -" not in done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "reference/models.html", "tutorials/edge-device.html"} <= {
        path.relative_to(tmp_path).as_posix() for path in pages
    }
    assert "leap_zoo.model.Model.classify" in (tmp_path / "reference" / "models.html").read_text()
    assert [path for path in pages if LOADED.search(path.read_text())] == []
    assert [path for path in tmp_path.rglob("*.css") if re.search(r"url\([\"']?https?:", path.read_text())] == []


def test_as_markdown__parameters_become_a_list() -> None:
    from tools.docs_site import as_markdown

    docstring = "Do it.\n\nname: what\nit is. precision, format: which\n    of them\nRaises ValueError."
    assert as_markdown(docstring) == (
        "Do it.\n\n\n- **name**: what\n  it is. precision, format: which\n    of them\n\nRaises ValueError."
    )
