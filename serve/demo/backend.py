"""What the tabs ask of the engine, one photo or a few at a time; nothing else in the demo touches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from leap_zoo import CustomHead, LeapZooError, Model, ModelCard
from serve.demo.pictures import thumbnail
from serve.engine import Classified, Engine, Space
from serve.problems import Refused, refusal_of

TOP = 5
TURNS = 3  # runs of each file when two are compared; the fastest counts, so that neither pays for cold caches
Answer = TypeVar("Answer")


class Backend:
    """The served model, its card, and the engine's threads.

    other: the precision of another file of the model that lies here, which answers can be compared with, or None.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model: Model = engine.models.default
        self.card: ModelCard = self.model.card
        self.threads = engine.threads
        served = [model.artifact.precision for model in engine.models.all() if model.card.id == self.card.id]
        self.other = served[1] if len(served) > 1 else None

    def cards(self) -> list[ModelCard]:
        """The cards of all models at hand, the served one's first."""
        return self._engine.models.cards()

    async def classify(self, photo: bytes, head: str | CustomHead) -> Classified:
        """Name what is on a photo. Raises LeapZooError, Refused."""
        return await self._engine.classify([photo], head=head, top=TOP)

    async def compare(self, photo: bytes, head: str | CustomHead, other: str) -> tuple[Classified, Classified]:
        """The answers of the served file and of the one of precision `other`, run in turns. Raises as `classify`."""
        turns = [
            (
                await self._engine.classify([photo], head=head, top=TOP),
                await self._engine.classify([photo], head=head, top=TOP, precision=other),
            )
            for _ in range(TURNS)
        ]
        ours, theirs = zip(*turns, strict=True)
        return min(ours, key=_inference), min(theirs, key=_inference)

    async def embed(self, photo: bytes, space: Space) -> npt.NDArray[np.float32]:
        """Embedding float32 (D,). Raises LeapZooError, Refused."""
        return (await self._engine.embed([photo], space=space)).embeddings[0]

    async def look(self, photo: bytes) -> str:
        """The photo's thumbnail. Raises ImageError, Refused (503)."""
        return await self.run(lambda: thumbnail(photo))

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Anything else on the engine's threads. Raises Refused (503)."""
        return await self._engine.run(work)

    async def fit(self, work: Callable[[], Answer]) -> Answer:
        """What takes seconds, beside the engine's threads. Raises Refused (503) while another visitor's does."""
        return await self._engine.run_slowly(work)


def explain(error: LeapZooError | Refused) -> str:
    """What the visitor is told about an error, without a path of this machine."""
    return error.detail if isinstance(error, Refused) else refusal_of(error).detail


def _inference(answer: Classified) -> float:
    return answer.inference_ms
