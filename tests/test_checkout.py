"""What is checked by digest is the same in every checkout, whatever git is set to do with text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ZOOS = ("zoo", "leap_zoo/bundled")
ODD = """*.json text eol=crlf working-tree-encoding=UTF-16
*.xml text ident
*.md text eol=crlf filter=shout
*.onnx filter=shout
"""


def git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True).stdout


@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="not a git checkout")
@pytest.mark.parametrize("attributes", ["", ODD])
def test_checkout__zoos_are_byte_exact(tmp_path: Path, attributes: str) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(clone))
    (tmp_path / "attributes").write_text(attributes)
    git(clone, "config", "core.attributesFile", str(tmp_path / "attributes"))
    git(clone, "config", "core.autocrlf", "true")
    git(clone, "config", "filter.shout.smudge", "tr a-z A-Z")
    git(clone, "checkout", "--quiet", "HEAD", "--", ".gitattributes")
    git(clone, "checkout", "--quiet", "HEAD", "--", *ZOOS)
    names = git(clone, "ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *ZOOS).decode().split("\0")[:-1]
    assert any(name.endswith("card.json") for name in names)
    changed = [name for name in names if (clone / name).read_bytes() != git(clone, "show", f"HEAD:{name}")]
    assert changed == []
