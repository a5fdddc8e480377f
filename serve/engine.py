"""Runs the models: the API and the page call the same object, so their answers agree."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

import leap_zoo
from leap_zoo import CustomHead, Model, Predictions
from leap_zoo.decode import Opened
from leap_zoo.device import available_threads
from leap_zoo.errors import ImageError, UnknownModel, nearest, short
from leap_zoo.model import Space, output_of, predict
from leap_zoo.preprocess import Limits, image_bytes, to_tensor
from leap_zoo.settings import read_settings
from leap_zoo.store import ZooLocation
from serve.budget import busy
from serve.problems import BadPhoto, Refused
from serve.settings import PHOTO, ServeSettings

__all__ = ["Classified", "Embedded", "Engine", "Models", "Space", "load_models", "start_engine"]

# Photos that may wait for a thread. At a few milliseconds each, a longer queue would only hide an overload.
MAX_WAITING = 64
PART = 8  # the most photos that a thread takes at once, unless one is large: a request must not keep all others waiting
LARGE = 8.0  # photos of more megapixels occupy a thread for long: their priority is low
# Bytes of JPEGs whose headers may take milliseconds to read, so that a thread does it. Headers of other formats may
# unpack texts, and are always read there.
LONG_HEADERS = 64 * 1024
# How much nicer threads for slow work are than the engine's and the event loop's, with which they share the cores.
NICENESS = 10

T = TypeVar("T")


class Room:
    """How much work may run or wait: so many pieces, of so much cost in total."""

    def __init__(self, most: int, reason: str, most_cost: float = math.inf) -> None:
        """reason: why work is refused."""
        self._most, self.most_cost, self._reason = most, most_cost, reason
        self.pieces, self._cost = 0, 0.0
        self._guard = threading.Lock()

    def take(self, pieces: int, cost: float) -> None:
        """Admit work. Raises Refused (503); the last piece that fits may bring others with it."""
        with self._guard:
            if self.pieces >= self._most or self._cost + cost > self.most_cost:
                raise busy(self._reason)
            self.pieces += pieces
            self._cost += cost

    def free(self, pieces: int, cost: float) -> None:
        """The work has ended."""
        with self._guard:
            self.pieces -= pieces
            self._cost -= cost


class Threads:
    """Run work for which there is room. Abandoned work counts until its thread ends it."""

    def __init__(self, name: str, threads: int, room: Room, initializer: Callable[[], object] | None = None) -> None:
        """initializer: runs first in each thread."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=initializer)
        self._room = room

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises Refused (503) if too much work is running or waiting."""
        self._room.take(1, 0.0)
        return await self.submit(work, 1, 0.0)

    def submit(self, work: Callable[[], T], pieces: int, cost: float) -> asyncio.Future[T]:
        """Run work that has taken its room."""
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._room.free(pieces, cost))
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Start no more work; do not wait for running work."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def lower_priority() -> None:
    """Lower the thread's priority. On Linux, a thread has its own niceness; elsewhere, this would slow the process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Models:
    """The models in memory, all loaded at the start: a request for any other model is refused."""

    def __init__(self, default: Model, others: Sequence[Model] = ()) -> None:
        self.default = default
        self._by_id = {model.card.id: model for model in (default, *others)}

    def get(self, name: str | None = None) -> Model:
        """The model with this id; None: the default model. Raises UnknownModel."""
        model = self._by_id.get(name or self.default.card.id)
        if model is None:
            hint = f"{nearest(str(name), self._by_id)}: GET /v1/models lists the models"
            raise UnknownModel(f"unknown model {short(name)}{hint}")
        return model

    def all(self) -> list[Model]:
        """The models in memory, the default model first."""
        return list(self._by_id.values())


def load_models(
    name: str | None, others: Sequence[str] = (), *, zoo: ZooLocation | None = None, limits: Limits = PHOTO
) -> Models:
    """Load the default model (None: the package's) and the others, of each the file that is best here.

    limits: on the photos of heads, which the models read themselves. Raises LeapZooError.
    """
    load = partial(leap_zoo.load, zoo=zoo, threads=1, limits=limits)
    default = load(name)
    return Models(default, [load(one) for one in others if one != default.card.id])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Which model and file answered, and how long it took.

    decode_ms, inference_ms: of all photos of the request in total, over all threads.
    queue_ms: until a thread started on the first photo.
    """

    model: str
    revision: str
    precision: str
    decode_ms: float
    inference_ms: float
    queue_ms: float

    @property
    def milliseconds(self) -> float:
        """Decoding and inference, without time in the queue."""
        return round(self.decode_ms + self.inference_ms, 3)


@dataclass(frozen=True, kw_only=True)
class Classified(Answer):
    """For each photo the predictions of the head named `head` ("" for a CustomHead, which has no name), best first."""

    predictions: list[Predictions]
    head: str


@dataclass(frozen=True, kw_only=True)
class Embedded(Answer):
    """float32 (N, D): for each photo a row of unit length in `space`."""

    embeddings: npt.NDArray[np.float32]
    space: Space


class Engine:
    """All models, and the threads that run them: neither decoding nor inference blocks the event loop.

    One thread decodes and runs a photo: with one thread per core, all cores are busy under load. Splitting a photo over
    cores would cost more than it saves for a model of a few milliseconds. The photos of one request are divided among
    the threads, and each thread runs its part as one batch.

    Work is admitted by its number of photos and megapixels. It counts until the threads finish it, even if its client
    has disconnected; in that case they stop before the next photo. Large photos, and those for galleries, have a
    low priority: they have separate threads, half as many and nicer, which take what the others leave.

    limits: the largest photo that is accepted. megapixels: the limit on all photos in progress or waiting.
    observe: called after each answered request with the milliseconds in the queue, of decoding and of inference.
    """

    def __init__(
        self,
        models: Models,
        *,
        threads: int,
        max_waiting: int = MAX_WAITING,
        limits: Limits = PHOTO,
        megapixels: float = 128,
    ) -> None:
        self.models = models
        self.threads = threads
        self.limits = limits
        self.observe: Callable[[float, float, float], object] = lambda queue_ms, decode_ms, inference_ms: None
        self.room = Room(threads + max_waiting, "Too many photos are waiting already.", megapixels)
        self._threads = Threads("engine", threads, self.room)
        self._low = Threads("low", max(1, threads // 2), self.room, lower_priority)
        self.run = self._threads.run
        """For any other work that takes milliseconds. Raises Refused (503)."""
        self.slow = Threads("slow", 1, Room(1, "Another head is being fitted."), lower_priority)
        """For work that takes seconds, such as fitting a head, one at a time."""

    async def classify(
        self,
        photos: Sequence[bytes],
        *,
        model: str | None = None,
        head: str | CustomHead | None = None,
        top: int = 5,
    ) -> Classified:
        """Classify each photo (the bytes of a file).

        head: the name of one of the model's own heads, or a CustomHead.
        Raises BadPhoto for the first bad one, UnknownModel, UnknownHead, InvalidHead for a head of another model,
        InvalidArgument, and Refused: 413 for more pixels than one request may have, 503 if too many photos are waiting.
        """
        chosen = self.models.get(model)
        # A client's text must not become the path of a file, as it could in Model.classify.
        known = head if isinstance(head, CustomHead) else chosen.named_head(head)
        if isinstance(known, CustomHead):
            known.check(chosen.card)

        def best(rows: npt.NDArray[np.float32]) -> list[Predictions]:
            return predict(known, rows, top)

        parts, about = await self._compute(chosen, photos, known.output, best)
        name = "" if isinstance(known, CustomHead) else known.name
        return Classified(predictions=[one for part in parts for one in part], head=name, **about)

    async def embed(
        self,
        photos: Sequence[bytes],
        *,
        model: str | None = None,
        space: Space = "student",
        low_priority: bool = False,
    ) -> Embedded:
        """Turn each photo (the bytes of a file) into a vector. Raises as `classify` does, and UnknownSpace.

        low_priority: other photos are first.
        """
        output = output_of(space)
        chosen = self.models.get(model)
        parts, about = await self._compute(chosen, photos, output, lambda rows: rows, low_priority=low_priority)
        return Embedded(embeddings=parts[0] if len(parts) == 1 else np.concatenate(parts), space=space, **about)

    def warm_up(self) -> None:
        """Run every output of every model once, and load the decoders, so that the first request does not wait.

        The first run of a graph takes many times as long as the second.
        """
        Image.init()
        grey = np.full((256, 256, 3), 127, np.uint8)
        for model in self.models.all():
            for head in model.heads:
                model.classify(grey, head=head)
            for space in ("student", "teacher"):
                model.embed(grey, space=space)

    def _opened(self, photos: Sequence[bytes]) -> list[Opened | ImageError]:
        """Each photo, whose header is read, or the reason why it cannot be used."""
        found: list[Opened | ImageError] = []
        for photo in photos:
            try:
                found.append(Opened(image_bytes(photo, self.limits), self.limits))
            except ImageError as error:
                found.append(error)
        return found

    async def _compute(
        self,
        model: Model,
        photos: Sequence[bytes],
        output: str,
        finish: Callable[[npt.NDArray[np.float32]], T],
        *,
        low_priority: bool = False,
    ) -> tuple[list[T], dict[str, Any]]:
        """`finish` of the rows of each part, in order, and the other fields of an Answer."""
        submitted = time.perf_counter()
        short = sum(map(len, photos)) <= LONG_HEADERS and all(photo[:2] == b"\xff\xd8" for photo in photos)
        opened = self._opened(photos) if short else await asyncio.to_thread(self._opened, photos)
        costs = [_cost(photo) for photo in opened]
        if sum(costs) > self.room.most_cost:
            detail = (
                f"The photos have {sum(costs):.0f} megapixels in total (a JPEG counts a quarter of its own); the limit "
                f"is {self.room.most_cost:g}. Send fewer in one request."
            )
            raise Refused("too_many_pixels", detail)
        self.room.take(len(photos), sum(costs))
        given_up = False

        def work(part: range) -> tuple[T, float, float, float]:
            """Decode and run photos; stop before the next one if nobody waits for the answer. Raises BadPhoto."""
            start = time.perf_counter()
            tensors = []
            for number in part:
                if given_up:
                    raise asyncio.CancelledError
                photo = opened[number]
                try:
                    if isinstance(photo, ImageError):
                        raise photo
                    tensors.append(to_tensor(photo, model.card.preprocessing))
                except ImageError as error:
                    raise BadPhoto(number, error) from error
            decoded = time.perf_counter()
            result = finish(model.run(np.stack(tensors), [output])[output])
            return result, start, decoded - start, time.perf_counter() - decoded

        running = []
        size = 1 if max(costs) > LARGE else min(PART, math.ceil(len(photos) / self.threads))
        for start in range(0, len(photos), size):
            part = range(start, min(start + size, len(photos)))
            threads = self._low if low_priority or costs[start] > LARGE else self._threads
            running.append(threads.submit(partial(work, part), len(part), sum(costs[part.start : part.stop])))
        try:
            # Wait for all: the answer must report the first bad photo of the request, not the first that was found.
            answers = (
                [await running[0]] if len(running) == 1 else await asyncio.gather(*running, return_exceptions=True)
            )
        finally:
            given_up = True
        parts: list[tuple[T, float, float, float]] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            parts.append(answer)
        results, starts, decoding, inference = zip(*parts, strict=True)
        about: dict[str, Any] = {
            "model": model.card.id,
            "revision": model.card.revision,
            "precision": model.artifact.precision,
            "decode_ms": _milliseconds(sum(decoding)),
            "inference_ms": _milliseconds(sum(inference)),
            "queue_ms": _milliseconds(min(starts) - submitted),
        }
        # At the next turn of the event loop, when the answer is on its way.
        asyncio.get_running_loop().call_soon(self.observe, about["queue_ms"], about["decode_ms"], about["inference_ms"])
        return list(results), about


def _cost(photo: Opened | ImageError) -> float:
    """Megapixels; a JPEG counts a quarter, as it is decoded at a fraction of its size. 0 for a bad photo."""
    return 0.0 if isinstance(photo, ImageError) else photo.pixels / (4e6 if photo.kind == "JPEG" else 1e6)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def start_engine(settings: ServeSettings) -> Engine:
    """Load the models and run each once; the result is ready for requests. Raises LeapZooError."""
    engine = Engine(
        load_models(settings.model, settings.models, limits=settings.photo_limits),
        threads=read_settings().threads or max(1, available_threads() // settings.workers),
        limits=settings.photo_limits,
        megapixels=settings.work_megapixels,
    )
    engine.warm_up()
    return engine
