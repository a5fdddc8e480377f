"""`python -m tools.scale_tables [--check]`: the tables of docs/scale.md and docs/scale/, made from results/scale/."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.scale_results import HERE, Figure, read

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ["scale.md", "scale/embedding.md", "scale/search.md", "scale/serving.md"]
BLOCK = re.compile(r"<!-- scale:(\w+):begin -->\n.*?<!-- scale:\1:end -->", re.DOTALL)
SIZES = [10**power for power in range(3, 9)]
ONE, TWO = "Ray, 1 worker", "Ray, 2 workers"
SEARCHED = ("milliseconds per search, median of 10", "megabytes of memory")
GROWN = (*SEARCHED, "megabytes on disk", "seconds to add")
PRICE = 0.04  # of a core-hour in euros: an assumption, not an offer


def value(rows: Sequence[Figure], subject: str, metric: str) -> float | None:
    """One figure; None: it was not measured."""
    return next((float(row["value"]) for row in rows if (row["subject"], row["metric"]) == (subject, metric)), None)


def cost(embedding: Sequence[Figure], search: Sequence[Figure], price: float = PRICE) -> str:
    """What n photos cost. price: of a core for an hour, in euros."""
    rate = value(embedding, ONE, "photos per second")
    assert rate is not None
    row = next(one for one in embedding if one["subject"] == ONE)
    hourly = 3600 * rate
    lines = [
        f"Measured with {row['about']}, {_where(row)}: **{hourly:,.0f} photos per core-hour**, "
        f"{1e6 / hourly * price:,.2f} euros per million at {price:g} euros per core-hour.",
        "",
        "| n | embedding, core-hours | euros | search of a folder, ms | its memory, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    known = {
        size: [value(search, f"a gallery in a folder, {size} vectors", metric) for metric in SEARCHED] for size in SIZES
    }
    largest = max(size for size, found in known.items() if None not in found)
    for size in SIZES:
        seconds = value(embedding, f"{TWO}, {size} photos", "seconds in all")
        hours = size / hourly if seconds is None else 2 * seconds / 3600
        cells = [f"{hours:,.2f}{' *' if seconds is None else ''}", f"{hours * price:,.2f}"]
        for ours, base in zip(known[size], known[largest], strict=True):
            guess = (base or 0) * size / largest
            cells.append(f"{ours:,.1f}" if ours is not None else f"{guess:,.0f} *")
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    conditions = dict.fromkeys(_where(one) for one in search if one["subject"].startswith("a gallery in a folder"))
    lines += ["", "\\* extrapolated in proportion to n; all else was measured. Search: " + "; ".join(conditions) + "."]
    return "\n".join(lines)


def figures(rows: Sequence[Figure]) -> str:
    """Every figure of a file, and under which conditions it was measured."""
    lines = ["| of | figure | value |", "| --- | --- | --- |"]
    lines += [f"| {row['subject']} | {row['metric']} | {float(row['value']):,.4g} |" for row in rows]
    conditions = dict.fromkeys(f"{row['about']}; {_where(row)}" for row in rows)
    return "\n".join([*lines, "", *(f"{one[:1].upper()}{one[1:]}." for one in conditions)])


def growth(rows: Sequence[Figure]) -> str:
    """Of a gallery in a folder."""
    lines = ["| vectors | search, ms | memory, MB | disk, MB | seconds to add |", "| --- | --- | --- | --- | --- |"]
    for size in SIZES:
        found = [value(rows, f"a gallery in a folder, {size} vectors", metric) for metric in GROWN]
        if None not in found:
            lines.append(f"| {size:,} | " + " | ".join(f"{number:,.4g}" for number in found) + " |")
    return "\n".join([*lines, "", f"Measured: {_where(rows[-1])}."])


def recall(rows: Sequence[Figure]) -> str:
    """Of quantized vectors, a column per file of vectors."""
    ours = [row for row in rows if row["metric"].startswith("recall")]
    columns = list(dict.fromkeys((row["subject"].split(", ")[0], row["about"]) for row in ours))
    kinds = list(dict.fromkeys((row["subject"].split(", ")[1], row["metric"]) for row in ours))
    lines = ["| vectors | " + " | ".join(f"{model}: {about}" for model, about in columns) + " |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for kind, metric in kinds:
        cells = [
            row["value"] if float(row["value"]) < 1 else "1"
            for model, about in columns
            for row in ours
            if (row["subject"], row["metric"], row["about"]) == (f"{model}, {kind}", metric, about)
        ]
        lines.append(f"| {kind}, {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _where(row: Figure) -> str:
    return row["machine"] + (f" ({row['note']})" if row["note"] else "")


def render(text: str) -> str:
    """A page with current figures in its blocks."""
    blocks: dict[str, Callable[[], str]] = {
        "cost": lambda: cost(read(HERE / "embedding.csv"), read(HERE / "search.csv")),
        "growth": lambda: growth(read(HERE / "search.csv")),
        "recall": lambda: recall(read(HERE / "search.csv")),
        **{
            name: lambda name=name: figures(read(HERE / f"{name}.csv")) for name in ("embedding", "training", "serving")
        },  # type: ignore[misc]
    }
    return BLOCK.sub(
        lambda found: f"<!-- scale:{found[1]}:begin -->\n{blocks[found[1]]()}\n<!-- scale:{found[1]}:end -->", text
    )


def main() -> int:
    """Rewrite the pages, or with --check exit 1 when one differs from what would be written."""
    parser = argparse.ArgumentParser(prog="python -m tools.scale_tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on drift")
    check, drifted = parser.parse_args().check, False
    for page in (DOCS / name for name in PAGES):
        text = page.read_text()
        fresh = render(text)
        if check and fresh != text:
            print(f"docs/{page.relative_to(DOCS)} has drifted from results/scale: run `make tables`", file=sys.stderr)
            drifted = True
        elif fresh != text:
            page.write_text(fresh)
    return int(drifted)


if __name__ == "__main__":
    sys.exit(main())
