"""What a service answers, and whether it fits what it was asked. Nothing in it is trusted."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.gallery import Hit
from leap_zoo.model import Prediction


class Answered(msgspec.Struct):
    """For each photo a row; and who answered."""

    model: str
    revision: str

    def rows(self) -> list[Any]:
        """One for each photo that was sent. Raises ValueError."""
        raise NotImplementedError


class Classified(Answered):
    """Of /v1/classify."""

    predictions: list[list[Prediction]]

    def rows(self) -> list[Any]:
        """Predictions, best first."""
        return self.predictions


class Found(Answered):
    """Of /v1/search."""

    hits: list[list[Hit]]

    def rows(self) -> list[Any]:
        """Hits, nearest first."""
        return self.hits


class Embedded(Answered):
    """Of /v1/embed with encoding=base64."""

    embeddings: list[bytes]  # msgspec reads base64
    dim: int

    def rows(self) -> list[Any]:
        """Vectors float32 (D,). Raises ValueError for one of another length, or with what is no number."""
        return [self._vector(row) for row in self.embeddings]

    def _vector(self, row: bytes) -> npt.NDArray[np.float32]:
        if not row or len(row) != 4 * self.dim:
            raise ValueError(f"an embedding of {len(row)} bytes for {self.dim} numbers")
        vector = np.frombuffer(row, "<f4").astype(np.float32)
        if not np.isfinite(vector).all():
            raise ValueError("an embedding that is not finite")
        return vector


AnyAnswered = TypeVar("AnyAnswered", bound=Answered)


class Galleries(msgspec.Struct):
    """Of GET /v1/gallery."""

    galleries: list[dict[str, Any]]


class Heads(msgspec.Struct):
    """Of GET /v1/heads."""

    heads: list[dict[str, Any]]


class Models(msgspec.Struct):
    """Of GET /v1/models."""

    data: list[dict[str, Any]]
