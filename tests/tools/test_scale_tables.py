"""The cost table: what follows from the figures, and what is marked as extrapolated."""

from __future__ import annotations

from tools import scale_tables
from tools.scale_results import figure


def test_table__follows_from_the_figures() -> None:
    embedding = [
        figure(scale_tables.ONE, "photos per second", 10, "leap-tiny int8, 2000 photos, one thread", ""),
        figure(f"{scale_tables.TWO}, 1000 photos", "seconds in all", 54, "leap-tiny int8", ""),
    ]
    search = [
        figure(f"a gallery in a folder, {size} vectors", metric, size / 1000, "", "")
        for size in (1000, 10_000)
        for metric in scale_tables.SEARCHED
    ]
    text = scale_tables.cost(embedding, search, price=0.36)
    assert "**36,000 photos per core-hour**, 10.00 euros per million at 0.36 euros" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| 1")]
    assert rows[0] == ["1,000", "0.03", "0.01", "1.0", "1.0"]  # measured
    assert rows[1] == ["10,000", "0.28 *", "0.10", "10.0", "10.0"]  # more photos than were embedded
    assert rows[2] == ["100,000", "2.78 *", "1.00", "100 *", "100 *"]
    assert len(rows) == 6


def test_pages__show_the_figures_that_are_in_results() -> None:
    for page in scale_tables.PAGES:
        text = (scale_tables.DOCS / page).read_text()
        assert scale_tables.BLOCK.search(text), page
        assert scale_tables.render(text) == text, f"docs/{page} has drifted: run `make tables`"
