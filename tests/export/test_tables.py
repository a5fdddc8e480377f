"""`make tables`: generated parts of pages follow cards and results, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from export import tables, text
from export.tables import Figure
from train.research.results import read_results, write_results


def rows(text: str, start: str) -> list[list[str]]:
    """The cells of lines of tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(start)]


def test_check__fails_when_a_figure_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """That nothing has drifted is tested in test_rooms.py."""
    shutil.copytree(tables.RESULTS, tmp_path / "results")
    changed = [
        replace(row, value=row.value / 2) if row.n is not None else row
        for row in read_results(tables.RESULTS / "zoo.csv")
    ]
    write_results(tmp_path / "results" / "zoo.csv", changed)
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    assert tables.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ("README.md", "docs/zoo.md", "docs/images/zoo.svg", "run `make tables`"))
    (tmp_path / "results" / "zoo.csv").write_text("model,metric\nleap-nano,top-1\n")
    assert tables.main(["--check"]) == 2
    assert re.fullmatch(r"export\.tables: .*zoo\.csv is not a table of Result rows \(.*\n", capsys.readouterr().err)


def test_scale__cost_follows_from_the_figures() -> None:
    embedding = [
        Figure("Ray, 1 worker", "photos per second", 10, "leap-tiny int8, 2000 photos, one thread"),
        Figure("Ray, 2 workers, 1000 photos", "seconds in all", 54, "leap-tiny int8"),
    ]
    search = [
        Figure(f"a gallery in a folder, {size} vectors", metric, size / 1000)
        for size in (1000, 10_000)
        for metric in ("milliseconds per search, median of 10", "megabytes of memory")
    ]
    results = {"scale/embedding.csv": embedding, "scale/search.csv": search}
    page = text.render("scale_cost.md", results=results.get, price=0.36)
    assert "**36,000 photos per core-hour**, 10.00 euros per million at 0.36 euros" in page
    found = rows(page, "| 1")
    assert found[0] == ["1,000", "0.03", "0.01", "1.0", "1.0"]  # measured
    assert found[1] == ["10,000", "0.28 *", "0.10", "10.0", "10.0"]  # more photos than were embedded
    assert found[2] == ["100,000", "2.78 *", "1.00", "100 *", "100 *"]
    assert len(found) == 6


def test_serving__shows_attacks_and_workers_once_they_are_measured() -> None:
    bench, trials = (
        json.loads((tables.RESULTS / "serving" / name).read_text()) for name in ("bench.json", "resilience.json")
    )
    one = {"what": "64 clients read nothing", "kept": 0.75, "alone_per_second": 400.0, "beside_per_second": 300.0}
    one |= {"p99_ms": 21.0, "other_statuses": {"503": 2}, "most_memory_mb": 400.0}
    rate = {"median": 1.71, "least": 1.5, "most": 1.9}
    workers = dict.fromkeys(("one_thread", "one_worker", "two_workers"), rate)
    trials["attacks"] = trials["overload"] | {"seconds": 8.0, "attacks": {"never_read": one}}
    trials["workers"] = trials["overload"] | {"clients": 32, "per_second": workers}
    trials["workers"] |= {"of_one_thread": rate, "of_one_worker": rate}
    results = {"serving/bench.json": bench, "serving/resilience.json": trials}
    page = text.render("serving.md", results=results.get)
    assert "| 64 clients read nothing | 75 % | 400, 300 | 21 ms | 2 | 400 MB |" in page
    assert "| times one worker with one thread | 1.71 (1.50 to 1.90) |" in page


def test_blocks__every_template_that_shows_results_has_its_place() -> None:
    """A page that lost its two comment lines would keep an old table."""
    pages = [tables.ROOT / "README.md", *tables.DOCS.rglob("*.md")]
    blocks = {block[2] for page in pages for block in tables.BLOCK.finditer(page.read_text())}
    shown = {path.stem for path in text.TEMPLATES.glob("*.md") if "= results(" in path.read_text()}
    assert {name.replace("-", "_") for name in blocks} == shown | {"zoo"}
    assert "fit" in shown
