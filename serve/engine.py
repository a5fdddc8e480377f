"""The one object that answers for the models: the API and the page both call it, so they cannot disagree."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

import leap_zoo
from leap_zoo import CustomHead, Model, Predictions
from leap_zoo.device import available_threads
from leap_zoo.errors import ImageError, InvalidHead
from leap_zoo.model import Space, output_of, predict
from leap_zoo.preprocess import Limits, to_tensor
from leap_zoo.settings import read_settings
from serve.aside import Aside
from serve.limits import PHOTO
from serve.models import Models, warm_up
from serve.problems import BadPhoto, Refused, sentence
from serve.settings import ServeSettings

__all__ = ["Classified", "Embedded", "Engine", "Space", "start_engine"]

MAX_WAITING = 64
"""Photos that may queue for a thread. At a few milliseconds each, a longer queue only hides an overload."""

PART = 8
"""The most photos that a thread takes at once: those of a large request must not keep everybody else's waiting."""

T = TypeVar("T")


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
    """All models that are held, and the threads that run them: neither decoding nor inference blocks the event loop.

    A photo is decoded and run by one thread: with one thread per core all cores are busy under load, and none is
    shared between photos, which costs more than it gives for a model of a few milliseconds. The photos of one request
    are shared out among the threads, and each thread runs its part as one batch.

    limits: the largest photo that is read.
    aside: for what takes seconds.
    observe: called with the milliseconds in the queue, of decoding and of inference, after each answered request.
    """

    def __init__(self, models: Models, *, threads: int, max_waiting: int = MAX_WAITING, limits: Limits = PHOTO) -> None:
        self.models = models
        self.threads = threads
        self.limits = limits
        self.aside = Aside()
        self.observe: Callable[[float, float, float], object] = lambda queue_ms, decode_ms, inference_ms: None
        self._capacity = threads + max_waiting
        self._inside = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")

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
        of another model, 503 when too many photos are waiting.
        """
        with self._admitted(len(photos)):
            chosen = await self._ready(model, precision)
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
        with self._admitted(len(photos)):
            chosen = await self._ready(model, precision)
            parts, about = await self._compute(chosen, photos, output, lambda rows: rows)
        return Embedded(embeddings=parts[0] if len(parts) == 1 else np.concatenate(parts), space=space, **about)

    async def model(self, name: str | None = None, precision: str | None = None) -> Model:
        """A model, loaded if need be. Raises as `Models.get` does, and Refused (503)."""
        with self._admitted(1):
            return await self._ready(name, precision)

    async def run(self, work: Callable[[], T]) -> T:
        """Anything else that would block the event loop, on one of the threads. Raises Refused (503)."""
        with self._admitted(1):
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def warm_up(self) -> None:
        """Run every output of the default model once, and load the decoders, for which the first TIFF would wait."""
        Image.init()
        warm_up(self.models.default)

    @contextmanager
    def _admitted(self, photos: int) -> Iterator[None]:
        if self._inside >= self._capacity:
            raise Refused(503, "busy", "Too many photos are waiting already. Try again shortly.", {"retry-after": "1"})
        self._inside += photos
        try:
            yield
        finally:
            self._inside -= photos

    async def _ready(self, name: str | None, precision: str | None) -> Model:
        """Loading has a thread of its own, so that those who wait for a model keep none from answering others."""
        model = self.models.held(name, precision)
        if model is not None:
            return model
        load = partial(self.models.get, name, precision)
        return await asyncio.get_running_loop().run_in_executor(self._loader, load)

    async def _compute(
        self,
        model: Model,
        photos: Sequence[bytes],
        output: str,
        finish: Callable[[npt.NDArray[np.float32]], T],
    ) -> tuple[list[T], dict[str, Any]]:
        """`finish` of the rows of each part, in order, and what an Answer says besides."""
        size = min(PART, math.ceil(len(photos) / self.threads))
        submit = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        submitted = time.perf_counter()
        work = [
            submit(_work, model, photos[start : start + size], start, self.limits, output, finish)
            for start in range(0, len(photos), size)
        ]
        # All are waited for: the problem that is answered is that of the first bad photo, whichever is found first.
        done = [await work[0]] if len(work) == 1 else await asyncio.gather(*work, return_exceptions=True)
        parts: list[_Part[T]] = []
        for part in done:
            if isinstance(part, BaseException):
                raise part
            parts.append(part)
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
    limits: Limits,
    output: str,
    finish: Callable[[npt.NDArray[np.float32]], T],
) -> _Part[T]:
    """Decode and run the photos, of which the first is number `first` of its request. Raises BadPhoto."""
    start = time.perf_counter()
    tensors = []
    for index, photo in enumerate(photos, first):
        try:
            tensors.append(to_tensor(photo, model.card.preprocessing, limits))
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


def start_engine(settings: ServeSettings) -> Engine:
    """Load the default model and run it once; what this returns is ready to answer. Raises LeapZooError."""
    default = leap_zoo.load(settings.model, threads=1)
    threads = read_settings().threads or available_threads()
    engine = Engine(Models(default, most=settings.models_held), threads=threads, limits=settings.photo_limits)
    engine.warm_up()
    return engine
