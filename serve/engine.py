"""The one object that answers for the model: the API and the page both call it, so they cannot disagree."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

import leap_zoo
from leap_zoo.device import available_threads
from leap_zoo.settings import read_settings
from serve.problems import Refused

MODEL = "leap-nano"
"""The model that is served; LEAP_ZOO_SERVE_MODEL names another one of the zoo."""

MAX_WAITING = 64
"""Photos that may queue for a thread. At a few milliseconds each, a longer queue only hides an overload."""

Space = Literal["student", "teacher"]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Classified:
    """Predictions, best first, of the head called `head`; `milliseconds` cover decoding and inference, not waiting."""

    predictions: list[leap_zoo.Prediction]
    head: str
    milliseconds: float


@dataclass(frozen=True)
class Embedded:
    """A float32 vector of unit length in `space`; `milliseconds` cover decoding and inference, not waiting."""

    embedding: npt.NDArray[np.float32]
    space: Space
    milliseconds: float


class Engine:
    """A loaded model and the threads that run it, so that neither decoding nor inference blocks the event loop.

    Each photo is decoded and run by one thread: with one thread per core all cores are busy under load, and none is
    shared between photos, which costs more than it gives for a model of a few milliseconds.
    """

    def __init__(self, model: leap_zoo.Model, *, threads: int, max_waiting: int = MAX_WAITING) -> None:
        self.model = model
        self.threads = threads
        self._capacity = threads + max_waiting
        self._inside = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine")

    async def classify(self, photo: bytes, *, top: int = 5, head: str | None = None) -> Classified:
        """Name what is on the photo (the bytes of a file). Raises as `Model.classify` does, and Refused (503)."""
        named = self.model.named_head(head).name  # a client's text must not become the path of a file
        predictions, milliseconds = await self._run(lambda: self.model.classify(photo, top=top, head=named))
        return Classified(predictions, named, milliseconds)

    async def embed(self, photo: bytes, *, space: Space = "student") -> Embedded:
        """Turn the photo (the bytes of a file) into a vector. Raises as `Model.embed` does, and Refused (503)."""
        embedding, milliseconds = await self._run(lambda: self.model.embed(photo, space=space))
        return Embedded(embedding, space, milliseconds)

    def warm_up(self) -> None:
        """Run every output once: the first run of a graph takes many times as long as the second."""
        grey = np.full((256, 256, 3), 127, np.uint8)
        for head in self.model.heads:
            self.model.classify(grey, head=head)
        for space in ("student", "teacher"):
            self.model.embed(grey, space=space)

    async def _run(self, work: Callable[[], Answer]) -> tuple[Answer, float]:
        if self._inside >= self._capacity:
            raise Refused(503, "busy", "Too many photos are waiting already. Try again shortly.", {"retry-after": "1"})

        def timed() -> tuple[Answer, float]:
            start = time.perf_counter()
            answer = work()
            return answer, round((time.perf_counter() - start) * 1000, 3)

        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        finally:
            self._inside -= 1


def model_name() -> str:
    """The id of the model to serve."""
    return os.environ.get("LEAP_ZOO_SERVE_MODEL", MODEL)


def start_engine() -> Engine:
    """Load the model and run it once; what this returns is ready to answer. Raises LeapZooError."""
    model = leap_zoo.load(model_name(), threads=1)
    engine = Engine(model, threads=read_settings().threads or available_threads())
    engine.warm_up()
    return engine
