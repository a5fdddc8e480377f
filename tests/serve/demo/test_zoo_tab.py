"""The tab Zoo: what a card shows, and that nothing in it becomes markup."""

from __future__ import annotations

import gradio as gr
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


def test_build__served_models_come_first_and_are_those_that_are_served(engine: Engine, shelf: Shelf) -> None:
    """Another zoo that is handed on may have another revision of a served model."""
    served = engine.models.default.card
    downloaded = list(shelf.cards)
    shelf.cards[served.id] = msgspec.structs.replace(served, revision="other")
    with gr.Blocks() as page:
        zoo.build(engine, shelf)
    blocks = {block.elem_id: block for block in page.blocks.values()}
    assert [name for name, _ in blocks["leap-model"].choices] == [served.id, *downloaded]
    assert served.revision in blocks["leap-card"].value
    for name in (served.id, *downloaded):
        assert f"| {name} |" in blocks["leap-models"].value


def test_about__says_what_the_card_says(engine: Engine, shelf: Shelf) -> None:
    model = engine.models.default
    text = zoo.about(shelf, model.card)
    for said in (model.card.id, model.artifact.sha256, "Apache-2.0", "not on this server", "FLOPs"):
        assert said in text


def test_about__a_file_on_this_server_is_a_relative_link(engine: Engine, shelf: Shelf) -> None:
    model = engine.models.default
    shelf.offers = lambda model, file, sha256: True  # type: ignore[method-assign]
    text = zoo.about(shelf, model.card)
    assert f"(../zoo/{model.card.id}/{model.artifact.file})" in text
    assert f"(../browser/?model={model.card.id})" in text
    assert "not on this server" not in text


def test_about__escapes_the_card(engine: Engine, shelf: Shelf) -> None:
    model = engine.models.default
    text = zoo.about(shelf, msgspec.structs.replace(model.card, description=HOSTILE))
    assert "<script" not in text
    assert "[x]" not in text


def test_about__one_row_for_each_measurement_of_each_file(engine: Engine, shelf: Shelf) -> None:
    card = engine.models.default.card
    metrics = [
        Metric(name="embedding cosine", dataset="d", split="s", n=1000, value=0.9933, interval=(0.99, 0.995)),
        Metric(name="top1", head="colours", dataset="d", split="s", n=3, value=1.0),
    ]
    artifact = msgspec.structs.replace(card.artifacts[0], metrics=metrics)
    text = zoo.about(shelf, msgspec.structs.replace(card, artifacts=[artifact]))
    file = f"ONNX, {artifact.precision}"
    assert f"| embedding cosine | 0.9933 (0.99 to 0.995) | {file} | 1,000 | d, s |" in text
    assert f"| top1 (colours) | 100.0% | {file} | 3 | d, s |" in text


def test_about__has_the_moves_of_the_curriculum(engine: Engine, shelf: Shelf) -> None:
    card = engine.models.default.card
    assert card.training is not None
    for move in card.training.curriculum:
        assert f"| {move.step} | {move.block} |" in zoo.about(shelf, card)
    assert "step by step" not in zoo.about(shelf, msgspec.structs.replace(card, training=None))
