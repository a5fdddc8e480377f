"""`python -m tools.scale_cost`: what n photos cost, in docs/scale.md, from the figures of `results/scale`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from tools.scale_results import HERE, Figure, read

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- cost:begin -->", "<!-- cost:end -->"
SIZES = [10**power for power in range(3, 9)]
CORE = "Ray, 1 worker"


def value(rows: Sequence[Figure], subject: str, metric: str) -> float | None:
    """One figure; None: it was not measured."""
    return next((float(row["value"]) for row in rows if (row["subject"], row["metric"]) == (subject, metric)), None)


def table(embedding: Sequence[Figure], search: Sequence[Figure], price: float) -> str:
    """The section between the marks. price: of a core for an hour, in euros."""
    rate = value(embedding, CORE, "photos per second")
    assert rate is not None
    row = next(one for one in embedding if one["subject"] == CORE)
    photos = int(re.findall(r"(\d+) photos", row["about"])[0])
    hourly = 3600 * rate
    lines = [
        f"Measured with {photos} photos, {row['about'].partition(',')[0]}, {row['machine']}"
        + (f" ({row['note']})" if row["note"] else "")
        + f": **{hourly:,.0f} photos per core-hour**, {1e6 / hourly * price:,.2f} euros per million at {price:g} euros "
        "per core-hour.",
        "",
        "| n | embedding, core-hours | euros | search of a folder, ms | its memory, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    known = {
        size: [value(search, f"a gallery in a folder, {size} vectors", metric) for metric in SEARCHED] for size in SIZES
    }
    largest = max(size for size, found in known.items() if None not in found)
    for size in SIZES:
        cells = [f"{size / hourly:,.2f}{'' if size <= photos else ' *'}", f"{size / hourly * price:,.2f}"]
        for ours, base in zip(known[size], known[largest], strict=True):
            guess = (base or 0) * size / largest
            cells.append(f"{ours:,.1f}" if ours is not None else f"{guess:,.0f} *")
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "\\* extrapolated in proportion to n, from the largest n that was measured."])


SEARCHED = ("milliseconds per search, median of 10", "megabytes of memory")


def main() -> None:
    """Rewrite the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--price", type=float, default=0.04, help="of a core-hour, in euros (default: %(default)s)")
    options = parser.parse_args()
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = table(read(HERE / "embedding.csv"), read(HERE / "search.csv"), options.price)
    PAGE.write_text(f"{before}{BEGIN}\n{new}\n{END}{after}")


if __name__ == "__main__":
    main()
