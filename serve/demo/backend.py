"""What the tabs ask of the engine, one photo or a few at a time; nothing else in the demo touches it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

import leap_zoo
from leap_zoo import CustomHead, ImageError, LeapZooError, Model, ModelCard
from leap_zoo.registry import find
from serve.api import refusal_of
from serve.demo.pictures import thumbnail
from serve.engine import Classified, Engine, Space
from serve.problems import Refused

TOP = 5
Answer = TypeVar("Answer")


class Backend:
    """The served model, its files that are at hand, and the engine's threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.model: Model = engine.model
        self.card: ModelCard = engine.model.card
        self.threads = engine.threads
        self.other = self._other_precision()

    async def classify(self, photo: bytes, head: str | CustomHead, precision: str | None = None) -> Classified:
        """Name what is on a photo. Raises LeapZooError, Refused."""
        if precision is None and isinstance(head, str):
            return await self._engine.classify(photo, top=TOP, head=head)
        model = self.model if precision is None else leap_zoo.load(self.card.id, precision=precision, threads=1)
        predictions, ms = await self._engine._run(lambda: model.classify(photo, top=TOP, head=head))
        return Classified(predictions, "your classes" if isinstance(head, CustomHead) else head, ms)

    async def embed(self, photos: Sequence[bytes], space: Space) -> npt.NDArray[np.float32]:
        """Embeddings float32 (N, D) of photos that `look` found good. Raises LeapZooError, Refused."""
        answers = [await self._engine.embed(photo, space=space) for photo in photos]
        return np.stack([answer.embedding for answer in answers])

    async def look(self, photos: Sequence[bytes]) -> list[str | LeapZooError]:
        """For each photo its thumbnail, or what is wrong with it. Raises Refused."""

        def one(photo: bytes) -> str | LeapZooError:
            try:
                return thumbnail(photo)
            except ImageError as error:
                return error

        return await self.run(lambda: [one(photo) for photo in photos])

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Anything else on the engine's threads. Raises Refused when they are all taken."""
        return (await self._engine._run(work))[0]

    def _other_precision(self) -> str | None:
        """The precision of another file of the model that lies here, which answers can be compared with."""
        served = self.model.artifact
        try:
            place, card = find(self.card.id)
        except LeapZooError:
            return None
        others = [
            artifact.precision
            for artifact in card.artifacts
            if card.revision == self.card.revision
            and artifact.format == served.format
            and artifact.precision != served.precision
            and place.holds(card, artifact)
        ]
        return others[0] if others else None


def explain(error: LeapZooError | Refused) -> str:
    """What the visitor is told about an error, without a path of this machine."""
    return error.detail if isinstance(error, Refused) else refusal_of(error).detail
