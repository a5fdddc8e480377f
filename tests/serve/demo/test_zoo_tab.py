"""The tab Zoo: what a card shows, and that nothing in it becomes markup."""

from __future__ import annotations

import msgspec

from leap_zoo.card import Metric
from serve.demo import zoo
from serve.demo.backend import Backend
from serve.engine import Engine
from serve.settings import ServeSettings
from serve.shelf import Shelf, zoos_to_hand_on

HOSTILE = "<script>alert(1)</script> [x](javascript:y)"


def backend_of(engine: Engine) -> Backend:
    """A page's backend that hands on the bundled zoo only."""
    return Backend(engine, Shelf(zoos_to_hand_on(ServeSettings())))


def test_about__says_what_the_card_says(engine: Engine) -> None:
    backend = backend_of(engine)
    text = zoo._about(backend, backend.card)
    for said in (backend.card.id, backend.model.artifact.sha256, "Apache-2.0", "not on this server", "FLOPs"):
        assert said in text


def test_about__a_file_on_this_server_is_a_relative_link(engine: Engine) -> None:
    backend = backend_of(engine)
    backend.offers = lambda card, file: True  # type: ignore[method-assign]
    text = zoo._about(backend, backend.card)
    assert f"(../zoo/{backend.card.id}/{backend.model.artifact.file})" in text
    assert f"(../browser/?model={backend.card.id})" in text
    assert "not on this server" not in text


def test_about__escapes_the_card(engine: Engine) -> None:
    backend = backend_of(engine)
    text = zoo._about(backend, msgspec.structs.replace(backend.card, description=HOSTILE))
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
