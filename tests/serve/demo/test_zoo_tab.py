"""The tab Zoo: what a card shows, and that nothing in it becomes markup."""

from __future__ import annotations

import msgspec
import pytest

from leap_zoo.card import Metric
from serve.api.zoo import Shelf, zoos_to_hand_on
from serve.demo import zoo
from serve.engine import Engine
from serve.settings import ServeSettings

HOSTILE = "<script>alert(1)</script> [x](javascript:y)"


@pytest.fixture
def shelf() -> Shelf:
    """The bundled zoo only."""
    return Shelf(zoos_to_hand_on(ServeSettings()))


def test_cards__of_served_models_come_first_and_are_those_that_are_served(engine: Engine, shelf: Shelf) -> None:
    """Another zoo that is handed on may have another revision of a served model."""
    served = engine.models.default.card
    downloaded = list(shelf.cards)
    shelf.cards[served.id] = msgspec.structs.replace(served, revision="other")
    cards = zoo._cards(engine, shelf)
    assert list(cards) == [served.id, *downloaded]
    assert cards[served.id].revision == served.revision


def test_about__says_what_the_card_says(engine: Engine, shelf: Shelf) -> None:
    model = engine.models.default
    text = zoo._about(shelf, model.card)
    for said in (model.card.id, model.artifact.sha256, "Apache-2.0", "not on this server", "FLOPs"):
        assert said in text


def test_about__a_file_on_this_server_is_a_relative_link(engine: Engine, shelf: Shelf) -> None:
    model = engine.models.default
    shelf.offers = lambda model, file, sha256: True  # type: ignore[method-assign]
    text = zoo._about(shelf, model.card)
    assert f"(../zoo/{model.card.id}/{model.artifact.file})" in text
    assert f"(../browser/?model={model.card.id})" in text
    assert "not on this server" not in text


def test_about__escapes_the_card(engine: Engine, shelf: Shelf) -> None:
    model = engine.models.default
    text = zoo._about(shelf, msgspec.structs.replace(model.card, description=HOSTILE))
    assert "<script" not in text
    assert "[x]" not in text


def test_metrics__one_row_for_each_measurement_of_each_file(engine: Engine) -> None:
    card = engine.models.default.card
    metrics = [
        Metric(name="embedding cosine", dataset="d", split="s", n=1000, value=0.9933, interval=(0.99, 0.995)),
        Metric(name="top1", head="colours", dataset="d", split="s", n=3, value=1.0),
    ]
    artifact = msgspec.structs.replace(card.artifacts[0], metrics=metrics)
    rows = zoo._metrics(msgspec.structs.replace(card, artifacts=[artifact]))
    assert [row[1:3] for row in rows] == [["0.9933", "0.99 to 0.995"], ["100.0%", ""]]
    assert [row[4] for row in rows] == ["1,000", "3"]
    assert rows[1][0] == "top1 (colours)"


def test_moves__are_those_of_the_curriculum(engine: Engine) -> None:
    card = engine.models.default.card
    assert card.training is not None
    assert [row[:2] for row in zoo._moves(card)] == [[move.step, move.block] for move in card.training.curriculum]
    assert zoo._moves(msgspec.structs.replace(card, training=None)) == []
