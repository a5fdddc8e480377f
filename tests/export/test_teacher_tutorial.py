"""docs/tutorials/your-own-teacher.md: its commands are those of `make train-demo`, and the rest runs on such a zoo.

The zoo is the one that the tests of this folder train and export, with few epochs.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from documented import ROOT, examples, run

from tools import classify_digits

TUTORIAL = ROOT / "docs" / "tutorials" / "your-own-teacher.md"


def test_your_own_teacher__classifies_and_loads_what_was_exported(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (kind, commands), *rest = examples(TUTORIAL)
    assert kind == "sh"
    recipe = (ROOT / "Makefile").read_text().partition("\ntrain-demo:")[2].partition("\n\n")[0]
    assert [f"\t.venv/bin/{command}" for command in commands.splitlines()] == recipe.splitlines()[2:]
    shutil.copytree(published, tmp_path / "zoo-out")
    monkeypatch.chdir(tmp_path)
    classifying = shlex.split(commands.splitlines()[-1])
    monkeypatch.setattr("sys.argv", classifying[2:])
    assert classify_digits.main() in (0, 1)  # 1: two epochs reach less than 95 %
    assert "classifies" in capsys.readouterr().out
    printed = run(rest, tmp_path)
    assert "(48,)" in printed
    assert "leap-grow" in printed
