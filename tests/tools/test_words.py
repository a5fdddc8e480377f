"""The checker of wording: what it finds, and what it leaves alone. `make lint` runs it on the checkout."""

from __future__ import annotations

import pytest

from tools.words import findings


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The file is no photo.", ["is no photo"]),
        ("A folder without a manifest is none.", ["is none"]),
        ("Where the grey centre was labelled and normalised", ["grey", "centre", "labelled", "normalised"]),
        ("Whoever holds the lock; a zoo of ours", ["of ours", "Whoever"]),
        ("default: as of `load`", ["as of `"]),
    ],
)
def test_findings__name_what_to_avoid(text: str, found: list[str]) -> None:
    assert sorted(word for word, _ in findings(text)) == sorted(found)


@pytest.mark.parametrize(
    "text",
    [
        "there is none; none of them; no photo is redistributed",
        "the key `licences`, `data.colour` and train/grey.py, or https://example.org/centre",
        "revised, promised, comprised, otherwise, exercise, precise",
    ],
)
def test_findings__leave_good_text_and_code_alone(text: str) -> None:
    assert list(findings(text)) == []
