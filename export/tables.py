"""`python -m export.tables [--check]`: the generated parts of README and docs, from cards and `results/`.

A part lies between two comments of its page. Its template shows files of `results/`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from export import latency, text, zoo_page
from leap_zoo.errors import LeapZooError
from leap_zoo.store import models
from train.errors import TrainError
from train.research.results import read_results
from train.run import RunReport
from train.table import read

ROOT = Path(__file__).resolve().parent.parent
DOCS, RESULTS, ZOO = ROOT / "docs", ROOT / "results", ROOT / "zoo"
TRIALS = {  # title of a section of docs/zoo.md -> its results
    "What each change gave": "ablations.csv",
    "Against a plain `last` student of equal cost": "zoo_rivals.csv",
}
# Page of docs/, comment, template, and the files of results/ that it shows, by their names in the template.
PARTS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("teacher-space.md", "teacher-space", "teacher_space.md", {"rows": "teacher_space.csv"}),
    ("bench.md", "int8-peak", "int8_peak.md", {"rows": "int8_peak.csv"}),
    ("formats.md", "limits", "limits.md", {"tried": "limits.json"}),
    ("serving.md", "serving", "serving.md", {"bench": "serving/bench.json", "trials": "serving/resilience.json"}),
    ("your-classes.md", "fit", "fit.md", {"rows": "fit.csv"}),
    ("scale.md", "scale-training", "scale_figures.md", {"rows": "scale/training.csv"}),
    ("scale.md", "scale-cost", "scale_cost.md", {"embedding": "scale/embedding.csv", "search": "scale/search.csv"}),
    ("scale/embedding.md", "scale-embedding", "scale_figures.md", {"rows": "scale/embedding.csv"}),
    ("scale/search.md", "scale-recall", "scale_recall.md", {"rows": "scale/search.csv"}),
    ("scale/search.md", "scale-growth", "scale_growth.md", {"search": "scale/search.csv"}),
    ("scale/serving.md", "scale-serving", "scale_figures.md", {"rows": "scale/serving.csv"}),
)


class Figure(msgspec.Struct, frozen=True):
    """A row of results/scale, see `tools.scale_results`."""

    subject: str
    metric: str
    value: float
    about: str = ""
    machine: str = ""
    note: str = ""

    @property
    def where(self) -> str:
        """The machine, and what else it did."""
        return self.machine + (f" ({self.note})" if self.note else "")


def main(arguments: list[str] | None = None) -> int:
    """Rewrite the tables, or with --check, exit 1 if one differs from what would be written."""
    parser = argparse.ArgumentParser(prog="python -m export.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table has drifted")
    check = parser.parse_args(arguments).check
    try:
        fresh = pages()
    except (LeapZooError, TrainError) as error:
        print(f"export.tables: {error}", file=sys.stderr)
        return 2
    drifted = [path for path, text in fresh.items() if not path.is_file() or path.read_text() != text]
    for path in drifted if not check else []:
        path.write_text(fresh[path])
    if check and drifted:
        names = ", ".join(str(path.relative_to(ROOT)) for path in drifted)
        print(f"{names}: out of date with cards and results: run `make tables`", file=sys.stderr)
    return int(check and bool(drifted))


def pages() -> dict[Path, str]:
    """The files with generated parts, as they should be. Raises LeapZooError, TrainError."""
    cards = models(ZOO)
    trials = {title: results(name) for title, name in TRIALS.items()}
    about = zoo_page.values(cards, [row for name in ("zoo.csv", "peers.csv") for row in results(name)], trials)
    taught = {path.stem: msgspec.json.decode(path.read_bytes(), type=RunReport) for path in RESULTS.glob("leap-*.json")}
    measured, readme = read(ROOT / latency.FILE, latency.Measured), ROOT / "README.md"
    found = {
        DOCS / "zoo.md": text.render("zoo.md", **about, measured=measured, taught=taught),
        readme: replaced(readme.read_text(), "zoo", text.render("zoo_table.md", **about)),
    }
    if about["files"]:
        found[DOCS / "images" / "zoo.svg"] = text.render("zoo.svg", **about)
    for page, block, template, files in PARTS:
        content = text.render(template, **{name: results(file) for name, file in files.items()})
        path = DOCS / page
        found[path] = replaced(found.get(path) or path.read_text(), block, content)
    return found


def results(name: str) -> Any:
    """A file of `results/`: a document of JSON, or the rows of a table. Raises TrainError."""
    path = RESULTS / name
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    return read(path, Figure) if name.startswith("scale/") else read_results(path)


def replaced(page: str, block: str, content: str) -> str:
    """The page with newly generated content between the two comments of a block."""
    begin, end = f"<!-- {block}:begin (generated by `make tables`) -->\n", f"<!-- {block}:end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(
            f"a page of README.md and docs/ has no generated block {block!r}: put its two comment lines back"
        )
    return f"{before}{begin}\n{content.rstrip()}\n\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
