"""The measured table of docs/gallery.md."""

from __future__ import annotations

from pathlib import Path

import leap_zoo
from leap_zoo.gallery.speed import main, read_rows, replace_table

ROOT = Path(leap_zoo.__file__).parent.parent


def test_speed__measures_every_engine_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "gallery.md"
    page.write_text((ROOT / "docs" / "gallery.md").read_text())
    assert main(["--photos", "300", "--dims", "8", "--results", str(tmp_path), "--docs", str(tmp_path)]) == 0
    rows = read_rows(tmp_path / "gallery_speed.csv")
    assert [row["engine"] for row in rows][:2] == ["numpy, product and top 10", "flat"]
    assert rows[1]["recall@10"] == "1.000"
    assert all(float(row["query ms"]) > 0 for row in rows)
    assert page.read_text() == replace_table(page.read_text(), rows)
    assert "| 300 | 8 | flat |" in page.read_text()


def test_page__shows_the_committed_figures() -> None:
    text = (ROOT / "docs" / "gallery.md").read_text()
    assert text == replace_table(text, read_rows(ROOT / "results" / "gallery_speed.csv"))
