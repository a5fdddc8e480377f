"""The students that ship with the package."""

from pathlib import Path

import pytest
from PIL import Image

import leap_zoo
from leap_zoo.store import BUNDLED, default_model
from leap_zoo.verify import verify

CARDS = {card.id: card for card in leap_zoo.models(BUNDLED)}


@pytest.mark.parametrize("name", CARDS)
def test_bundled__is_small_and_verifies(name: str) -> None:
    assert [artifact.precision for artifact in CARDS[name].artifacts] == ["int8"]
    assert CARDS[name].artifacts[0].bytes <= 8_000_000
    report = verify(name, BUNDLED)
    assert report.ok, [artifact.error for artifact in report.artifacts]


@pytest.mark.parametrize("name", [card.id for card in CARDS.values() if card.head("imagenet1k")])
def test_bundled__answers_with_a_thousand_classes(name: str, golf_ball: Image.Image) -> None:
    model = leap_zoo.load(name, zoo=BUNDLED)
    (best, *others) = model.classify(golf_ball, top=10_000, head="imagenet1k")
    assert (model.heads[0], len(others), best.label) == ("imagenet1k", 999, "golf ball")


@pytest.mark.parametrize("name", [card.id for card in CARDS.values() if not card.answers])
def test_bundled__a_dead_head_answers_only_by_its_name(name: str, golf_ball: Image.Image) -> None:
    with pytest.raises(leap_zoo.UnknownHead, match=f"{name} has no general head.*use {default_model()}"):
        leap_zoo.load(name, zoo=BUNDLED).classify(golf_ball)


def test_bundled__a_cut_name_of_a_head_suggests_the_thousand_classes(golf_ball: Image.Image) -> None:
    with pytest.raises(leap_zoo.UnknownHead, match="did you mean 'imagenet1k'"):
        leap_zoo.load(zoo=BUNDLED).classify(golf_ball, head="imagenet")


def test_bundled__the_default_is_what_load_finds(sample_photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAP_ZOO_URL", raising=False)
    model = leap_zoo.load()
    assert model.card.id == verify().model == default_model()
    assert model.card.answers
    assert sum(prediction.score for prediction in model.classify(sample_photos[0], top=10_000)) == pytest.approx(
        1, abs=1e-3
    )
    assert model.embed(sample_photos).shape == (len(sample_photos), model.card.embedding_dims.student)
