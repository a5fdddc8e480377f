"""`python -m export.tables [--check]`: the generated tables of README and docs, from cards and `results/`."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from export import latency, text, zoo_page
from export.zoo_page import Column, Line, lines_of
from leap_zoo.errors import LeapZooError
from leap_zoo.store import models
from train.errors import TrainError
from train.research.results import Result, read_results
from train.run import RunReport
from train.table import read

ROOT = Path(__file__).resolve().parent.parent
DOCS, RESULTS, ZOO = ROOT / "docs", ROOT / "results", ROOT / "zoo"
SIZES = [10**power for power in range(3, 9)]  # of galleries and sets of photos
PRICE = 0.04  # of a core-hour in euros: an assumption, not an offer
Figure = dict[str, str]  # a row of results/scale, see `tools.scale_results`
TRIALS = {  # title of a section of docs/zoo.md -> its results
    "What each change gave": "ablations.csv",
    "Against a plain `last` student of equal cost": "zoo_rivals.csv",
}


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
    if check and drifted:
        names = ", ".join(str(path.relative_to(ROOT)) for path in drifted)
        print(f"{names}: out of date with cards and results: run `make tables`", file=sys.stderr)
        return 1
    if not check:
        for path, content in fresh.items():
            path.write_text(content)
    return 0


def pages() -> dict[Path, str]:
    """The files with generated parts, as they should be. Raises LeapZooError, TrainError."""
    lines = zoo_lines()
    speed = latency.latency_tables(read(ROOT / latency.FILE, latency.Measured))
    trials = {title: read_results(RESULTS / name) for title, name in TRIALS.items()}
    reports = {path.stem: path.read_bytes() for path in sorted(RESULTS.glob("leap-*.json"))}
    taught = {name: msgspec.json.decode(report, type=RunReport) for name, report in reports.items()}
    found = {DOCS / "zoo.md": zoo_page.render(models(ZOO), lines, trials, speed, taught)}
    if (picture := zoo_page.picture(lines)) is not None:
        found[DOCS / "images" / zoo_page.PICTURE] = picture
    for path, block, content in (
        (ROOT / "README.md", "zoo", zoo_page.compact_table(lines)),
        (DOCS / "teacher-space.md", "teacher-space", teacher_space(read_results(RESULTS / "teacher_space.csv"))),
        (DOCS / "bench.md", "int8-peak", int8_peak(read_results(RESULTS / "int8_peak.csv"))),
        (DOCS / "formats.md", "limits", limits(json.loads((RESULTS / "limits.json").read_bytes()))),
        (DOCS / "serving.md", "serving", serving()),
        (DOCS / "your-classes.md", "fit", own_classes(read_results(RESULTS / "fit.csv"))),
        *scale(),
    ):
        found[path] = replaced(found.get(path) or path.read_text(), block, content)
    return found


def zoo_lines() -> list[Line]:
    """The published files of zoo/ with the figures measured on them, and peers. Raises TrainError."""
    return lines_of(models(ZOO), [row for name in ("zoo.csv", "peers.csv") for row in read_results(RESULTS / name)])


def teacher_space(rows: Sequence[Result]) -> str:
    """One line per data set and figure, one column per pair; in percent, 95 % intervals in brackets."""
    first = {row.variant: row for row in reversed(rows)}
    pairs = [variant for variant in dict.fromkeys(row.variant for row in rows) if " asks " in variant]
    found = {(row.dataset, row.split, row.metric.partition(",")[0], row.variant): row for row in rows}
    places = list(dict.fromkeys((row.dataset, row.split) for row in rows if row.variant in pairs))

    def cells(where: tuple[str, str], metric: str) -> list[str]:
        column = Column(metric, *where)
        return [Line("", "", {}, {column: found[*where, metric, pair]}).cell(column) for pair in pairs]

    values = {"student": first[pairs[0]], "teacher": first[pairs[-1]]}
    return text.render("teacher_space.md", pairs=pairs, found=found, places=places, cells=cells, **values).rstrip("\n")


def int8_peak(rows: Sequence[Result]) -> str:
    """For each device and int8 file, its rate compared with that of a plain matrix product in int8."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for each in rows:
        found.setdefault((each.hardware, each.subject, each.variant), {})[each.metric] = each.value
    return text.render("int8_peak.md", found=found).rstrip("\n")


def limits(found: Mapping[str, Any]) -> str:
    """One line per published ONNX file and runtime in which `tools.check_limits` tried it."""
    return text.render("limits.md", **found).rstrip("\n")


def own_classes(rows: Sequence[Result]) -> str:
    """What your own heads are worth, by classes and photos each, as `tools.measure_fit` measured it."""
    return text.render("fit.md", values={row.metric: row.value for row in rows}).rstrip("\n")


def serving() -> str:
    """The cost of serving, its limits under load, what attacks leave to others, and what a second process gives."""
    bench, trials = (
        json.loads((RESULTS / "serving" / name).read_bytes()) for name in ("bench.json", "resilience.json")
    )
    return text.render("serving.md", bench=bench, trials=trials).rstrip("\n")


def scale() -> list[tuple[Path, str, str]]:
    """Pages, blocks in them, and their contents, from results/scale."""
    embedding, search, training, replicas = (
        list(csv.DictReader((RESULTS / "scale" / f"{name}.csv").read_text().splitlines()))
        for name in ("embedding", "search", "training", "serving")
    )
    growth = text.render("scale_growth.md", search=search, sizes=SIZES, value=_value, where=_where)
    return [
        (DOCS / "scale.md", "scale-training", scale_figures(training)),
        (DOCS / "scale.md", "scale-cost", scale_cost(embedding, search)),
        (DOCS / "scale" / "embedding.md", "scale-embedding", scale_figures(embedding)),
        (DOCS / "scale" / "search.md", "scale-recall", scale_recall(search)),
        (DOCS / "scale" / "search.md", "scale-growth", growth.rstrip("\n")),
        (DOCS / "scale" / "serving.md", "scale-serving", scale_figures(replicas)),
    ]


def scale_cost(embedding: Sequence[Figure], search: Sequence[Figure], price: float = PRICE) -> str:
    """What n photos cost. price: of a core for an hour, in euros."""
    return text.render(
        "scale_cost.md",
        embedding=embedding,
        search=search,
        price=price,
        sizes=SIZES,
        value=_value,
        where=_where,
        conditions=dict.fromkeys(_where(one) for one in search if one["subject"].startswith("a gallery in a folder")),
    ).rstrip("\n")


def scale_figures(rows: Sequence[Figure]) -> str:
    """Every figure of a file, and under which conditions it was measured."""
    conditions = dict.fromkeys(f"{row['about']}; {_where(row)}" for row in rows)
    return text.render("scale_figures.md", rows=rows, conditions=conditions).rstrip("\n")


def scale_recall(rows: Sequence[Figure]) -> str:
    """Of quantized vectors, a column per file of vectors."""
    columns: dict[str, None] = {}
    kinds: dict[str, list[str]] = {}
    for row in rows:
        if row["metric"].startswith("recall"):
            model, kind = row["subject"].split(", ")
            columns[f"{model}: {row['about']}"] = None
            kinds.setdefault(f"{kind}, {row['metric']}", []).append(f"{float(row['value']):g}")
    return text.render("scale_recall.md", columns=columns, kinds=kinds).rstrip("\n")


def _value(rows: Sequence[Figure], subject: str, metric: str) -> float | None:
    """One figure; None: it was not measured."""
    return next((float(row["value"]) for row in rows if (row["subject"], row["metric"]) == (subject, metric)), None)


def _where(row: Figure) -> str:
    return row["machine"] + (f" ({row['note']})" if row["note"] else "")


def replaced(page: str, block: str, content: str) -> str:
    """The page with newly generated content between the two comments of a block."""
    begin, end = f"<!-- {block}:begin (generated by `make tables`) -->\n", f"<!-- {block}:end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(
            f"a page of README.md and docs/ has no generated block {block!r}: put its two comment lines back"
        )
    return f"{before}{begin}\n{content}\n\n{end}{after}"


if __name__ == "__main__":
    sys.exit(main())
