"""The borders of the house: which room may import which, and that generated text has not drifted."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {"leap_zoo", "train", "export", "serve"}
ALLOWED = {
    "leap_zoo": {"leap_zoo"},
    "serve": {"serve", "leap_zoo"},
    "train": {"train", "leap_zoo"},
    "export": {
        *("export", "leap_zoo", "train.run", "train.errors", "train.table", "train.research.results"),
        *("train.data.labels", "train.data.sources", "train.data.splits", "train.data.store"),  # labelled photos
        *("train.evaluate.__main__", "train.evaluate.datasets", "train.evaluate.features", "train.evaluate.survey"),
    },
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.partition(".")[0] in ROOMS}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_room__imports_only_its_neighbours(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules
    for path in modules:
        for name in imported(path):
            assert {name, name.partition(".")[0]} & ALLOWED[room], f"{path.relative_to(ROOT)} imports {name}"


def test_readme__tables_match_cards_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the train extra is not installed")
    from export import tables

    assert tables.main(["--check"]) == 0, capsys.readouterr().err
