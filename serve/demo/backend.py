"""The page's access to the service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from leap_zoo import CustomHead, LeapZooError, Model, ModelCard
from leap_zoo.card import File, Preprocessing
from leap_zoo.preprocess import to_tensor
from serve.engine import Classified, Engine
from serve.problems import Refused, refusal_of
from serve.settings import PHOTO
from serve.shelf import Shelf

TOP = 5
MAX_PHOTO_BYTES = PHOTO.bytes
INTERNAL_ERROR = "Internal error: see the log of the server."
UserError = (LeapZooError, Refused)
"""Errors that a visitor can cause and fix; the message says how."""

logger = logging.getLogger("leap_zoo.serve")

_THUMBNAIL = Preprocessing(size=256, short_side=256)
_Answer = TypeVar("_Answer")


class Backend:
    """The served model, the other models of the zoo, and the engine's threads."""

    def __init__(self, engine: Engine, shelf: Shelf) -> None:
        self._engine = engine
        self._shelf = shelf
        self.model: Model = engine.models.default
        self.card: ModelCard = self.model.card
        self.threads = engine.threads

    def cards(self) -> list[ModelCard]:
        """The cards of all models of the zoo, the served one's first."""
        return self._engine.models.cards()

    def offers(self, card: ModelCard, file: File) -> bool:
        """Whether /zoo hands out this file of a model."""
        return self._shelf.offers(card.id, file.file, file.sha256)

    async def classify(self, photo: bytes, head: str | CustomHead) -> Classified:
        """Classify a photo. Raises LeapZooError, Refused."""
        return await self._engine.classify([photo], head=head, top=TOP)

    async def embed(self, photo: bytes) -> npt.NDArray[np.float32]:
        """The unit vector float32 (D,) of a photo. Raises LeapZooError, Refused."""
        (vector,) = (await self._engine.embed([photo])).embeddings
        return np.asarray(vector)

    async def thumbnail(self, photo: bytes) -> Image.Image:
        """The center square of a photo. Raises ImageError, Refused (503)."""
        return await self._engine.run(lambda: Image.fromarray(to_tensor(photo, _THUMBNAIL, PHOTO)))

    async def fit(self, work: Callable[[], _Answer]) -> _Answer:
        """Run work that takes seconds on a separate thread. Raises Refused (503) while another visitor's work runs."""
        return await self._engine.run_slowly(work)


def explain(error: Exception) -> str:
    """The message for the visitor, without local paths; an unexpected error is logged."""
    if isinstance(error, UserError):
        return refusal_of(error).detail
    logger.error("internal error in the page", exc_info=error)
    return INTERNAL_ERROR
