"""The README and the tutorials about the package do what they say, with sample photos."""

from __future__ import annotations

from pathlib import Path

import pytest
from documented import ROOT, examples, run, with_photos

TUTORIALS = ROOT / "docs" / "tutorials"


def test_photo_search__finds_the_same_place_first(tmp_path: Path) -> None:
    printed = run(examples(TUTORIALS / "photo-search.md"), with_photos(tmp_path))
    assert "12 photos" in printed
    assert "1.00" in printed
    searched = [line for line in printed.splitlines() if line.endswith("taxi-3.jpg")]
    assert searched
    assert all(float(line.split()[0]) > 0.99 for line in searched if "  " in line and len(line.split()) == 2)


def test_your_own_classes__names_a_new_photo(tmp_path: Path) -> None:
    printed = run(examples(TUTORIALS / "your-own-classes.md"), with_photos(tmp_path))
    assert "cross-validated accuracy" in printed
    assert printed.splitlines()[-1].startswith("taxi ")


def test_edge_device__classifies_and_measures(tmp_path: Path) -> None:
    blocks = [  # an int8 file may differ on a CPU that multiplies bytes in another way
        (
            kind,
            text.replace("verify leap-tiny", "verify leap-tiny || test $? = 1").replace(
                "-nano\n", "-nano || test $? = 1\n"
            ),
        )
        for kind, text in examples(TUTORIALS / "edge-device.md")
    ]
    printed = run(blocks, with_photos(tmp_path))
    assert "card.json" in printed
    assert (tmp_path / "answers.json").stat().st_size > 0
    assert (tmp_path / "photo.npz").is_file()


def test_readme__first_answer_search_and_classes(tmp_path: Path) -> None:
    blocks = examples(ROOT / "README.md", "Install and get a first answer", "Embed and search", "Your own classes")
    with_photos(tmp_path)
    (tmp_path / "things").rename(tmp_path / "flowers")
    printed = run([(kind, text.replace("pip install .", ": pip install .")) for kind, text in blocks], tmp_path)
    assert "cross-validated accuracy" in printed
    assert "12 photos in gallery" in printed
    assert (tmp_path / "embeddings.npz").is_file()
    assert (tmp_path / "flowers.head").is_file()


@pytest.mark.parametrize("document", sorted(TUTORIALS.glob("*.md")), ids=lambda path: path.stem)
def test_tutorials__are_short(document: Path) -> None:
    assert examples(document)
    assert len(document.read_text().splitlines()) < 80
