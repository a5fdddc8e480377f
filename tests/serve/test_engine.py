"""The engine: the right answers, never more than it can hold, and a free event loop meanwhile."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from leap_zoo import Model, UndecodableImage, UnknownHead, UnknownModel
from leap_zoo.preprocess import Limits
from leap_zoo.runtime import Session
from serve.engine import Engine, Models, _cost
from serve.problems import BadPhoto, Refused


class HeldSession:
    """The session of the tiny model, which runs only when the test lets it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.runtime, self.threads = session.runtime, session.threads
        self.inputs, self.outputs = session.inputs, session.outputs
        self.begun, self.release = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        self.begun.set()
        assert self.release.wait(120)
        self.batches.append(len(image))
        return self._session.run(image, outputs)


@pytest.fixture
def held(engine: Engine) -> tuple[Model, HeldSession]:
    """The tiny model, and its session, which the test must release."""
    default = engine.models.default
    session = HeldSession(default.session)
    return Model(default.card, default.artifact, session), session


@pytest.fixture(scope="module")
def photos(colour_photos: dict[str, Path]) -> dict[str, bytes]:
    return {colour: path.read_bytes() for colour, path in colour_photos.items()}


def test_classify__names_the_strongest_colour_of_each(engine: Engine, photos: dict[str, bytes]) -> None:
    answer = asyncio.run(engine.classify(list(photos.values())))
    assert [best.label for best, *_ in answer.predictions] == list(photos)
    assert answer.head == engine.models.default.card.default_head
    assert answer.milliseconds == pytest.approx(answer.decode_ms + answer.inference_ms, abs=0.001)
    assert min(answer.decode_ms, answer.inference_ms, answer.queue_ms) > 0


def test_classify__reads_photos_up_to_its_limits(engine: Engine) -> None:
    file = io.BytesIO()
    Image.new("L", (8160, 6144)).save(file, "JPEG")  # 50.1 megapixels
    with pytest.raises(BadPhoto, match="limit: 50"):
        asyncio.run(engine.classify([file.getvalue()]))
    wider = Engine(engine.models, threads=1, limits=Limits(pixels=26_000_000))
    assert asyncio.run(wider.classify([file.getvalue()])).predictions


def test_classify__uses_the_head_and_the_number_asked_for(engine: Engine, photos: dict[str, bytes]) -> None:
    answer = asyncio.run(engine.classify([photos["red"]], top=1, head="brightness"))
    assert answer.head == "brightness"
    assert [p.label for p in answer.predictions[0]] in (["dark"], ["bright"])


def test_embed__has_unit_length_in_both_spaces(engine: Engine, photos: dict[str, bytes]) -> None:
    dims = engine.models.default.card.embedding_dims
    for space, dim in (("student", dims.student), ("teacher", dims.teacher)):
        answer = asyncio.run(engine.embed([photos["blue"]], space=space))
        assert answer.embeddings.shape == (1, dim)
        assert answer.embeddings.dtype == np.float32
        assert np.linalg.norm(answer.embeddings) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("number", [1, 2, 3, 7, 40])
def test_embed__many_are_as_each_alone(engine: Engine, photos: dict[str, bytes], number: int) -> None:
    many = (list(photos.values()) * 14)[:number]
    answer = asyncio.run(engine.embed(many))
    assert np.allclose(answer.embeddings, engine.models.default.embed(many), atol=1e-6)


def test_embed__shares_photos_out_in_small_batches(held: tuple[Model, HeldSession], photos: dict[str, bytes]) -> None:
    model, session = held
    session.release.set()
    for number, batches in ((1, [1]), (4, [2, 2]), (20, [4, 8, 8])):
        session.batches.clear()
        asyncio.run(Engine(Models(model), threads=2).embed([photos["red"]] * number))
        assert sorted(session.batches) == batches


def test_classify__names_the_first_bad_photo(engine: Engine, photos: dict[str, bytes]) -> None:
    many = [photos["red"]] * 5 + [photos["red"][:300], b"no photo", b"none"]
    with pytest.raises(BadPhoto) as caught:
        asyncio.run(engine.classify(many))
    assert caught.value.index == 5
    assert isinstance(caught.value.error, UndecodableImage)


def test_classify__passes_the_models_errors_on(engine: Engine, photos: dict[str, bytes]) -> None:
    with pytest.raises(UnknownHead):
        asyncio.run(engine.classify([photos["red"]], head="nope"))
    with pytest.raises(UnknownModel):
        asyncio.run(engine.classify([photos["red"]], model="nope"))


def test_classify__refuses_what_it_cannot_hold_and_recovers(
    held: tuple[Model, HeldSession], photos: dict[str, bytes]
) -> None:
    model, session = held
    engine = Engine(Models(model), threads=1, max_waiting=1)

    async def five_at_once() -> list[object]:
        calls = [asyncio.ensure_future(engine.classify([photos["red"]])) for _ in range(5)]
        await asyncio.sleep(0.05)
        session.release.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    refused = [answer for answer in asyncio.run(five_at_once()) if isinstance(answer, Refused)]
    assert len(refused) == 3
    assert {(r.status, r.code, r.headers["retry-after"]) for r in refused} == {(503, "busy", "1")}
    assert asyncio.run(engine.classify([photos["blue"]])).predictions[0][0].label == "blue"


def test_engine__leaves_the_event_loop_free(held: tuple[Model, HeldSession], photos: dict[str, bytes]) -> None:
    model, session = held
    engine = Engine(Models(model), threads=1)

    async def release_from_the_loop() -> str:
        asyncio.get_running_loop().call_later(0.05, session.release.set)  # never runs when the loop is blocked
        return (await engine.classify([photos["red"]])).predictions[0][0].label

    assert asyncio.run(release_from_the_loop()) == "red"


def test_run__is_counted_with_the_photos(engine: Engine) -> None:
    engine = Engine(engine.models, threads=1, max_waiting=0)
    hold = threading.Event()

    async def two() -> list[object]:
        calls = [asyncio.ensure_future(engine.run(lambda: hold.wait(120))) for _ in range(2)]
        await asyncio.sleep(0.05)
        hold.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second = asyncio.run(two())
    assert first is True
    assert isinstance(second, Refused)


def test_engine__tells_of_every_answer(engine: Engine, photos: dict[str, bytes]) -> None:
    told: list[tuple[float, float, float]] = []
    telling = Engine(engine.models, threads=1)
    telling.observe = lambda *times: told.append(times)
    embedded = asyncio.run(telling.embed([photos["red"]]))
    classified = asyncio.run(telling.classify([photos["red"]] * 2))
    with pytest.raises(BadPhoto):
        asyncio.run(telling.embed([b"no photo"]))
    assert told == [(one.queue_ms, one.decode_ms, one.inference_ms) for one in (embedded, classified)]


def png(width: int, height: int) -> bytes:
    """A small file of many pixels."""
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_costs__are_those_of_the_headers(engine: Engine) -> None:
    """A JPEG counts a quarter; one that is broken counts nothing, because the decoder refuses it."""
    for kind, share in (("PNG", 1), ("JPEG", 0.25), ("WEBP", 1), ("GIF", 1), ("BMP", 1)):
        file = io.BytesIO()
        Image.new("RGB", (640, 480), "red").save(file, kind)
        data = file.getvalue()
        assert costs(engine, [data, data + b"more"]) == pytest.approx([share * 0.3072] * 2)
        assert max(costs(engine, [data[:length] for length in range(40)])) <= 0.3072
    assert costs(engine, [b"not a photo", b"\xff\xd8" + b"\xff\xfe\0\2" * 2000]) == [0, 0]


def costs(engine: Engine, photos: list[bytes]) -> list[float]:
    return [_cost(photo) for photo in engine._opened(photos)]


def test_admission__counts_megapixels_not_photos(held: tuple[Model, HeldSession], photos: dict[str, bytes]) -> None:
    """32 files of 110 kB with 25 megapixels each fitted into one request, and kept all others out for 20 s."""
    model, session = held
    engine, bomb = Engine(Models(model), threads=2, megapixels=20), png(3000, 3000)

    async def run() -> None:
        with pytest.raises(Refused, match="megapixels") as caught:
            await engine.embed([bomb] * 3)
        assert (caught.value.status, caught.value.code) == (413, "too_many_pixels")
        large = [asyncio.ensure_future(engine.embed([bomb])) for _ in range(3)]
        await asyncio.sleep(0.05)
        small = asyncio.ensure_future(engine.embed([photos["red"]]))
        await asyncio.sleep(0.05)
        session.release.set()
        assert (await small).embeddings.shape[0] == 1
        answers = await asyncio.gather(*large, return_exceptions=True)
        assert [answer.code for answer in answers if isinstance(answer, Refused)] == ["busy"]  # 27 are more than 20
        assert engine.room.pieces == 0

    asyncio.run(run())


def test_admission__large_photos_leave_threads_to_small_ones(
    held: tuple[Model, HeldSession], photos: dict[str, bytes]
) -> None:
    model, session = held
    card = msgspec.structs.replace(model.card, id="leap-other-test")
    other = Model(card, model.artifact, session._session)  # it runs while the first is held
    engine = Engine(Models(model, [other]), threads=1, megapixels=1000)

    async def run() -> None:
        large = [asyncio.ensure_future(engine.embed([png(3000, 3000)])) for _ in range(3)]
        while not session.begun.is_set():
            await asyncio.sleep(0.01)
        assert (await engine.embed([photos["red"]], model=card.id)).embeddings.shape[0] == 1
        assert not any(one.done() for one in large)
        session.release.set()
        await asyncio.gather(*large)

    asyncio.run(run())


def test_photos__for_galleries_have_a_low_priority(held: tuple[Model, HeldSession], photos: dict[str, bytes]) -> None:
    """Eight clients that searched left a sixth of the rate to one that embedded."""
    model, session = held
    card = msgspec.structs.replace(model.card, id="leap-other-test")
    other = Model(card, model.artifact, session._session)  # it runs while the first is held
    engine = Engine(Models(model, [other]), threads=1)

    async def run() -> None:
        searches = [asyncio.ensure_future(engine.embed([photos["red"]], low_priority=True)) for _ in range(8)]
        while not session.begun.is_set():
            await asyncio.sleep(0.01)
        assert (await engine.embed([photos["red"]], model=card.id)).embeddings.shape[0] == 1
        assert not any(one.done() for one in searches)
        session.release.set()
        await asyncio.gather(*searches)

    asyncio.run(run())


def test_cancellation__stops_before_the_next_photo(held: tuple[Model, HeldSession], photos: dict[str, bytes]) -> None:
    """Work that was given up went on to its end."""
    model, session = held
    engine = Engine(Models(model), threads=1)

    async def run() -> None:
        work = asyncio.ensure_future(engine.embed([photos["red"]] * 24))
        while not session.begun.is_set():
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert engine.room.pieces == 8  # what a thread has begun counts to its end
        session.release.set()
        await engine.run(lambda: None)
        assert session.batches == [8]
        assert engine.room.pieces == 0

    asyncio.run(run())
