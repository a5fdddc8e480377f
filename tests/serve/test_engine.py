"""The engine: the right answers, never more than it can hold, and a free event loop meanwhile."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from leap_zoo import NotAnImage, Prediction, UnknownHead
from serve.engine import Engine
from serve.problems import Refused


class HeldModel:
    """A model that answers only when the test lets it."""

    card = SimpleNamespace(default_head="any")

    def __init__(self) -> None:
        self.release = threading.Event()

    def named_head(self, name: str | None) -> SimpleNamespace:
        return SimpleNamespace(name=name or "any")

    def classify(self, photo: bytes, *, top: int, head: str | None) -> list[Prediction]:
        assert self.release.wait(10)
        return [Prediction(photo.decode(), 1.0, 0)]


def test_classify__names_the_strongest_colour(engine: Engine, colour_photos: dict[str, Path]) -> None:
    for colour, path in colour_photos.items():
        answer = asyncio.run(engine.classify(path.read_bytes()))
        assert answer.predictions[0].label == colour
        assert answer.head == engine.model.card.default_head
        assert answer.milliseconds > 0


def test_classify__uses_the_head_and_the_number_asked_for(engine: Engine, colour_photos: dict[str, Path]) -> None:
    answer = asyncio.run(engine.classify(colour_photos["red"].read_bytes(), top=1, head="brightness"))
    assert answer.head == "brightness"
    assert [p.label for p in answer.predictions] in (["dark"], ["bright"])


def test_embed__has_unit_length_in_both_spaces(engine: Engine, colour_photos: dict[str, Path]) -> None:
    dims = engine.model.card.embedding_dims
    for space, dim in (("student", dims.student), ("teacher", dims.teacher)):
        answer = asyncio.run(engine.embed(colour_photos["blue"].read_bytes(), space=space))
        assert answer.embedding.shape == (dim,)
        assert answer.embedding.dtype == np.float32
        assert np.linalg.norm(answer.embedding) == pytest.approx(1, abs=1e-5)


def test_classify__passes_the_models_errors_on(engine: Engine, colour_photos: dict[str, Path]) -> None:
    with pytest.raises(NotAnImage):
        asyncio.run(engine.classify(b"no photo"))
    with pytest.raises(UnknownHead):
        asyncio.run(engine.classify(colour_photos["red"].read_bytes(), head="nope"))


def test_classify__refuses_what_it_cannot_hold_and_recovers() -> None:
    model = HeldModel()
    engine = Engine(model, threads=1, max_waiting=1)  # type: ignore[arg-type]

    async def five_at_once() -> list[object]:
        calls = [asyncio.ensure_future(engine.classify(str(i).encode())) for i in range(5)]
        await asyncio.sleep(0.05)
        model.release.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(five_at_once())
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert len(refused) == 3
    assert {(r.status, r.code, r.headers["retry-after"]) for r in refused} == {(503, "busy", "1")}
    assert asyncio.run(engine.classify(b"again")).predictions[0].label == "again"


def test_classify__leaves_the_event_loop_free() -> None:
    model = HeldModel()
    engine = Engine(model, threads=1)  # type: ignore[arg-type]

    async def release_from_the_loop() -> str:
        asyncio.get_running_loop().call_later(0.05, model.release.set)  # never runs when the loop is blocked
        return (await engine.classify(b"done")).predictions[0].label

    assert asyncio.run(release_from_the_loop()) == "done"


def test_warm_up__runs_every_output(engine: Engine) -> None:
    asked: list[str] = []

    class Recorder:
        heads = engine.model.heads

        def classify(self, image: object, *, head: str) -> None:
            asked.append(head)

        def embed(self, image: object, *, space: str) -> None:
            asked.append(space)

    Engine(Recorder(), threads=1).warm_up()  # type: ignore[arg-type]
    assert asked == ["colours", "brightness", "student", "teacher"]
