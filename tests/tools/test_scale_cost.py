"""The cost table: what follows from the figures, and what is marked as extrapolated."""

from __future__ import annotations

from tools.scale_cost import CORE, SEARCHED, table
from tools.scale_results import figure


def test_table__follows_from_the_figures() -> None:
    embedding = [figure(CORE, "photos per second", 10, "leap-tiny int8, 2000 photos, one thread", "")]
    search = [
        figure(f"a gallery in a folder, {size} vectors", metric, size / 1000, "", "")
        for size in (1000, 10_000)
        for metric in SEARCHED
    ]
    text = table(embedding, search, price=0.36)
    assert "**36,000 photos per core-hour**, 10.00 euros per million at 0.36 euros" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| 1")]
    assert rows[0] == ["1,000", "0.03", "0.01", "1.0", "1.0"]  # measured
    assert rows[1] == ["10,000", "0.28 *", "0.10", "10.0", "10.0"]  # more photos than were embedded
    assert rows[2] == ["100,000", "2.78 *", "1.00", "100 *", "100 *"]
    assert len(rows) == 6
