"""The one object that answers for the models: the API and the page both call it, so they cannot disagree."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

import leap_zoo
from leap_zoo import CustomHead, Model, ModelCard, Predictions
from leap_zoo.device import available_threads
from leap_zoo.errors import ImageError, InvalidHead, LeapZooError, UnknownModel, nearest, short
from leap_zoo.model import Space, output_of, predict
from leap_zoo.preprocess import Limits, to_tensor
from leap_zoo.settings import read_settings
from leap_zoo.store import ZooLocation
from leap_zoo.store import models as cards_of
from serve.budget import busy
from serve.pixels import megapixels
from serve.problems import BadPhoto, Refused, sentence
from serve.settings import PHOTO, ServeSettings

__all__ = ["Classified", "Embedded", "Engine", "Models", "Space", "load_models", "start_engine"]

MAX_WAITING = 64
"""Photos that may queue for a thread. At a few milliseconds each, a longer queue only hides an overload."""

PART = 8
"""The most photos that a thread takes at once: those of a large request must not keep everybody else's waiting."""

UNCOUNTED = 250_000
"""Pixels that a photo may always have, whatever its header says."""

LARGE = 8.0
"""Megapixels of a photo that takes a thread for long: such photos have threads of their own, half as many."""

NICENESS = 5
"""How far behind the engine's threads the one for work of seconds stands; they share the cores."""

T = TypeVar("T")


class Models:
    """The models in memory, all loaded at the start: a request that names another one is refused.

    zoo: where models are looked for; default: where `leap_zoo.load` looks.
    """

    def __init__(self, default: Model, others: Sequence[Model] = (), *, zoo: ZooLocation | None = None) -> None:
        self.default = default
        self._zoo = zoo
        self._by_name: dict[tuple[str, str | None], Model] = {}
        for model in (default, *others):
            self._by_name.setdefault((model.card.id, None), model)
            self._by_name.setdefault((model.card.id, model.artifact.precision), model)

    def get(self, name: str | None = None, precision: str | None = None) -> Model:
        """A model. Takes no time.

        name: a model's id, None: the default model. precision: None: the one that was loaded first of this model.
        Raises UnknownModel; Refused (422) for a precision that is not in memory.
        """
        name = name or self.default.card.id
        model = self._by_name.get((name, precision))
        if model is not None:
            return model
        if (name, None) in self._by_name:
            detail = f"The {precision} file of {name} is not loaded. GET /v1/models lists what is."
            raise Refused(422, "model_not_here", detail)
        known = {one for one, _ in self._by_name}
        raise UnknownModel(f"unknown model {short(name)}{nearest(name, known)}: GET /v1/models lists those served here")

    def all(self) -> list[Model]:
        """The models in memory, the default one first."""
        return [model for (_, precision), model in self._by_name.items() if precision is not None]

    def cards(self) -> list[ModelCard]:
        """The cards of all models at hand, the served ones' first. Reads the disk."""
        served = {model.card.id: model.card for model in self.all()}
        return [*served.values(), *(card for card in cards_of(self._zoo) if card.id not in served)]


def load_models(name: str | None, others: Sequence[str] = (), *, zoo: ZooLocation | None = None) -> Models:
    """Load the default model (None: the package's) and the others, in every precision that can be run here.

    Raises LeapZooError.
    """
    default = leap_zoo.load(name, zoo=zoo, threads=1)
    rest: list[Model] = []
    for one in dict.fromkeys((default.card.id, *others)):
        first = default if one == default.card.id else leap_zoo.load(one, zoo=zoo, threads=1)
        rest.append(first)
        for precision in sorted({artifact.precision for artifact in first.card.artifacts}):
            if precision != first.artifact.precision:
                with contextlib.suppress(LeapZooError):  # a file that was not pulled, or a runtime that is not here
                    rest.append(leap_zoo.load(one, precision=precision, zoo=zoo, threads=1))
    return Models(default, rest[1:], zoo=zoo)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """By which model and file photos were answered, and how long it took.

    decode_ms, inference_ms: of all photos of the request together, whichever threads took them.
    queue_ms: until a thread took the first of them.
    """

    model: str
    revision: str
    precision: str
    decode_ms: float
    inference_ms: float
    queue_ms: float

    @property
    def milliseconds(self) -> float:
        """Decoding and inference, without waiting."""
        return round(self.decode_ms + self.inference_ms, 3)


@dataclass(frozen=True, kw_only=True)
class Classified(Answer):
    """Per photo the predictions, best first, of the head called `head` ("" for a CustomHead, which has no name)."""

    predictions: list[Predictions]
    head: str


@dataclass(frozen=True, kw_only=True)
class Embedded(Answer):
    """float32 (N, D), a row of unit length in `space` per photo."""

    embeddings: npt.NDArray[np.float32]
    space: Space


class Engine:
    """All models, and the threads that run them: neither decoding nor inference blocks the event loop.

    A photo is decoded and run by one thread: with one thread per core all cores are busy under load, and none is
    shared between photos, which costs more than it gives for a model of a few milliseconds. The photos of one request
    are shared out among the threads, and each thread runs its part as one batch.

    Work is admitted by photos and by megapixels, until the threads are done with it, also when nobody waits for it any
    more; then they stop before the next photo.

    limits: the largest photo that is read. megapixels: of all photos in work or waiting.
    observe: called with the milliseconds in the queue, of decoding and of inference, after each answered request.
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
        self._most_photos = threads + max_waiting
        self._most_megapixels = megapixels
        self._guard = threading.Lock()
        self._photos = 0
        self._megapixels = 0.0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self._large = ThreadPoolExecutor(max(1, threads // 2), thread_name_prefix="large", initializer=_stand_back)
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="slow", initializer=_stand_back)
        self._slow_work: Future[Any] | None = None

    async def classify(
        self,
        photos: Sequence[bytes],
        *,
        model: str | None = None,
        precision: str | None = None,
        head: str | CustomHead | None = None,
        top: int = 5,
    ) -> Classified:
        """Name what is on each photo (the bytes of a file).

        head: the name of one of the model's own, or a CustomHead.
        Raises BadPhoto for the first bad one, UnknownModel, UnknownHead, InvalidArgument, and Refused: 409 for a head
        of another model, 413 for more pixels than one request may have, 503 when too much is waiting.
        """
        chosen = self.models.get(model, precision)
        # A client's text must not become the path of a file, as it could in Model.classify.
        known = _fitting(head, chosen) if isinstance(head, CustomHead) else chosen.named_head(head)

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
        precision: str | None = None,
        space: Space = "student",
    ) -> Embedded:
        """Turn each photo (the bytes of a file) into a vector. Raises as `classify` does, and UnknownSpace."""
        output = output_of(space)
        chosen = self.models.get(model, precision)
        parts, about = await self._compute(chosen, photos, output, lambda rows: rows)
        return Embedded(embeddings=parts[0] if len(parts) == 1 else np.concatenate(parts), space=space, **about)

    async def run(self, work: Callable[[], T]) -> T:
        """Anything else that would block the event loop, on one of the threads. Raises Refused (503)."""
        self._admit(1, 0.0)
        return await self._submit(self._pool, work, 1, 0.0)

    async def run_slowly(self, work: Callable[[], T]) -> T:
        """Work of seconds, as fitting a head, on a thread beside the others. Raises Refused (503) while one is busy,
        also with work that was given up.
        """
        if self._slow_work is not None and not self._slow_work.done():
            raise Refused(503, "busy", "Another head is being fitted. Try again shortly.", {"retry-after": "5"})
        self._slow_work = future = self._slow.submit(work)
        return await asyncio.wrap_future(future)

    def warm_up(self) -> None:
        """Run every output of every model once, and load the decoders, for which the first TIFF would wait.

        The first run of a graph takes many times as long as the second.
        """
        Image.init()
        grey = np.full((256, 256, 3), 127, np.uint8)
        for model in self.models.all():
            for head in model.heads:
                model.classify(grey, head=head)
            for space in ("student", "teacher"):
                model.embed(grey, space=space)

    @property
    def photos_inside(self) -> int:
        """How many photos are in work or waiting."""
        return self._photos

    def _admit(self, photos: int, cost: float) -> None:
        """Count work as inside, until `_submit` is done with it. Raises Refused: 413, 503."""
        if cost > self._most_megapixels:
            detail = (
                f"The photos have {cost:.0f} megapixels together (a quarter of a JPEG's count), and at most "
                f"{self._most_megapixels:g} are read at once. Send fewer in one request."
            )
            raise Refused(413, "too_many_pixels", detail)
        with self._guard:
            if self._photos >= self._most_photos or self._megapixels + cost > self._most_megapixels:
                raise busy("Too many photos are waiting already.")
            self._photos += photos
            self._megapixels += cost

    def _submit(self, pool: ThreadPoolExecutor, work: Callable[[], T], photos: int, cost: float) -> asyncio.Future[T]:
        """Admitted work on a thread. It stays counted until the thread is done with it, whoever waits."""

        def done(_: object) -> None:
            with self._guard:
                self._photos -= photos
                self._megapixels -= cost

        future = pool.submit(work)
        future.add_done_callback(done)
        return asyncio.wrap_future(future)

    async def _compute(
        self,
        model: Model,
        photos: Sequence[bytes],
        output: str,
        finish: Callable[[npt.NDArray[np.float32]], T],
    ) -> tuple[list[T], dict[str, Any]]:
        """`finish` of the rows of each part, in order, and what an Answer says besides."""
        submitted = time.perf_counter()
        costs = [megapixels(photo, self.limits) for photo in photos]
        self._admit(len(photos), sum(costs))
        given_up = threading.Event()
        work = [
            self._submit(
                self._large if costs[part.start] > LARGE else self._pool,
                partial(
                    _work,
                    model,
                    photos[part.start : part.stop],
                    part.start,
                    [_admitted(cost, self.limits) for cost in costs[part.start : part.stop]],
                    output,
                    finish,
                    given_up,
                ),
                len(part),
                sum(costs[part.start : part.stop]),
            )
            for part in _parts(costs, min(PART, math.ceil(len(photos) / self.threads)))
        ]
        try:
            # All are waited for: the problem that is answered is that of the first bad photo, whichever comes first.
            answers = [await work[0]] if len(work) == 1 else await asyncio.gather(*work, return_exceptions=True)
        finally:
            given_up.set()
        parts: list[_Part[T]] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            parts.append(answer)
        about: dict[str, Any] = {
            "model": model.card.id,
            "revision": model.card.revision,
            "precision": model.artifact.precision,
            "decode_ms": _milliseconds(sum(part.decoding for part in parts)),
            "inference_ms": _milliseconds(sum(part.inference for part in parts)),
            "queue_ms": _milliseconds(min(part.start for part in parts) - submitted),
        }
        self.observe(about["queue_ms"], about["decode_ms"], about["inference_ms"])
        return [part.result for part in parts], about


@dataclass(frozen=True, slots=True)
class _Part(Generic[T]):
    result: T
    start: float  # seconds, as of time.perf_counter
    decoding: float
    inference: float


def _work(
    model: Model,
    photos: Sequence[bytes],
    first: int,
    limits: Sequence[Limits],
    output: str,
    finish: Callable[[npt.NDArray[np.float32]], T],
    given_up: threading.Event,
) -> _Part[T]:
    """Decode and run the photos, of which the first is number `first` of its request; limits: of each.

    Stops before the next photo when nobody waits any more. Raises BadPhoto.
    """
    start = time.perf_counter()
    tensors = []
    for index, (photo, limit) in enumerate(zip(photos, limits, strict=True), first):
        if given_up.is_set():
            raise asyncio.CancelledError
        try:
            tensors.append(to_tensor(photo, model.card.preprocessing, limit))
        except ImageError as error:
            raise BadPhoto(index, error) from error
    decoded = time.perf_counter()
    result = finish(model.run(np.stack(tensors), [output])[output])
    return _Part(result, start, decoded - start, time.perf_counter() - decoded)


def _fitting(head: CustomHead, model: Model) -> CustomHead:
    try:
        head.check(model.card)
    except InvalidHead as error:
        raise Refused(409, "head_of_another_model", sentence(str(error))) from error
    return head


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _admitted(cost: float, limits: Limits) -> Limits:
    """The largest that a photo of this many megapixels may turn out to be.

    A file may have two headers, or a frame larger than its header says: what was not admitted is not decoded. (Twice
    as many pixels pass, as `cost` counts a quarter of a JPEG's, of which `Limits` allow twice as many.)
    """
    pixels = max(UNCOUNTED, math.ceil(2e6 * cost) + 1)
    return limits if pixels >= limits.pixels else dataclasses.replace(limits, pixels=pixels)


def _parts(costs: Sequence[float], size: int) -> Iterator[range]:
    """The photos of a request as ranges, in order: each large photo alone, others up to `size` together."""
    start = 0
    for at, cost in enumerate(costs):
        if cost > LARGE or at - start == size:
            if start < at:
                yield range(start, at)
            start = at
        if cost > LARGE:
            yield range(at, at + 1)
            start = at + 1
    if start < len(costs):
        yield range(start, len(costs))


def _stand_back() -> None:
    """On Linux a thread has a niceness of its own; elsewhere the whole process would step back."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def start_engine(settings: ServeSettings) -> Engine:
    """Load the models and run each once; what this returns is ready to answer. Raises LeapZooError."""
    engine = Engine(
        load_models(settings.model, settings.models),
        threads=read_settings().threads or max(1, available_threads() // settings.workers),
        limits=settings.photo_limits,
        megapixels=settings.work_megapixels,
    )
    engine.warm_up()
    return engine
