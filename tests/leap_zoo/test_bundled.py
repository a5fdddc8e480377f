"""The student that ships with the package."""

from pathlib import Path

import pytest
from PIL import Image

import leap_zoo
from leap_zoo.registry import BUNDLED
from leap_zoo.verify import verify

pytestmark = pytest.mark.skipif(
    not (BUNDLED / "index.json").is_file(), reason="no student is bundled yet: export one to leap_zoo/bundled"
)


def test_bundled__is_small_and_verifies() -> None:
    card = next(card for card in leap_zoo.models(BUNDLED) if card.id == "leap-nano")
    assert [artifact.precision for artifact in card.artifacts] == ["int8"]
    assert card.artifacts[0].bytes <= 8_000_000
    report = verify("leap-nano", BUNDLED)
    assert report.ok, [artifact.error for artifact in report.artifacts]


def test_bundled__knows_a_golf_ball(golf_ball: Image.Image) -> None:
    assert leap_zoo.load("leap-nano", zoo=BUNDLED).classify(golf_ball, top=1)[0].label == "golf ball"


def test_bundled__is_what_load_finds(sample_photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAP_ZOO_URL", raising=False)
    model = leap_zoo.load()
    assert model.card.id == "leap-nano"
    assert sum(prediction.score for prediction in model.classify(sample_photos[0], top=10_000)) == pytest.approx(
        1, abs=1e-3
    )
    assert model.embed(sample_photos).shape == (len(sample_photos), model.card.embedding_dims.student)
