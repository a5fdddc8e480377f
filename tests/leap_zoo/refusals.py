"""What a refusal looks like, whatever is wrong with the zoo."""

from __future__ import annotations

from pathlib import Path

import pytest

from leap_zoo.cli import main

TINY = "leap-tiny-test"


def refused(capsys: pytest.CaptureFixture[str], source: object, home: Path) -> tuple[str, list[Path]]:
    """The one line with which `leap-zoo pull` refuses, and what it left in the cache."""
    capsys.readouterr()
    assert main(["pull", TINY, "--from", str(source)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("leap-zoo: ")
    assert captured.err.count("\n") == 1
    assert captured.err.rstrip("\n").isprintable()
    assert len(captured.err) < 600
    return captured.err, [path for path in home.rglob("*") if path.is_file()]
