"""docs/tutorials/serve-and-deploy.md: its requests are answered by a server with the bundled model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from documented import ROOT, examples, run, with_photos

TUTORIAL = ROOT / "docs" / "tutorials" / "serve-and-deploy.md"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_serve_and_deploy__requests_are_answered(bundled_server, torchless: dict[str, str], tmp_path: Path) -> None:
    address = bundled_server.url.removeprefix("http://")
    blocks = [(kind, text.replace("localhost:3000", address)) for kind, text in examples(TUTORIAL)]
    printed = run(blocks, with_photos(tmp_path), torchless)
    assert '"predictions"' in printed
    assert '"embeddings"' in printed
    assert "Hit(id=" in printed
    assert printed.endswith("200\n")
