"""Custom heads: a linear map from embeddings to your classes, stored in one small file.

The file is in safetensors format: the length of a JSON header (8 bytes, little endian), the header, then float32
`weight` (C, D) and `bias` (C,). The head's card is JSON in the header's metadata, under `leap_head`. Size and
header are checked before the numbers are read; nothing in the file is ever executed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from leap_zoo.card import FileName, ModelCard, ModelId, Positive, Strict, Text
from leap_zoo.doubt import bounded, distances
from leap_zoo.errors import InvalidHead, short
from leap_zoo.files import failing_as, new_file, read_regular, saved_file

SUFFIX = ".head"
HEAD_SCHEMA: Final = 1
MAX_CLASSES = 10_000
MAX_LABEL = 300
MAX_HEAD_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_NUMBER = 1e6  # of weights, biases and the scale, so that no logit overflows; those of `fit` are below 1000

Kind = Literal["prototypes", "logistic", "discriminant"]
Label = Annotated[str, Meta(min_length=1, max_length=MAX_LABEL)]
_Probability = Annotated[float, Meta(ge=0, le=1)]
OUTPUTS = {"student": "embedding", "teacher": "teacher_embedding"}
_REFIT = "fit it again with leap-zoo fit"


class CrossValidation(Strict, frozen=True):
    """Accuracy (0..1) on held-out photos, over `folds` folds; 95 % Wilson interval.

    confidence: mean score of the predicted classes; calibrated scores are close to the accuracy. unsure: share of these
    photos reported as none of the classes. Each fold uses a scale and a threshold fitted to the other folds, so nothing
    was tuned on the `n` photos counted here. Files of older versions lack confidence and unsure.
    """

    accuracy: _Probability
    interval: tuple[_Probability, _Probability]
    n: Positive
    folds: Positive
    confidence: _Probability | None = None
    unsure: _Probability | None = None


class HeadCard(Strict, frozen=True):
    """A head's description: its model, its classes, and how it was fitted.

    photos: number per class, in the order of `labels`. strength: shrinkage of the discriminant analysis, or C of a
    logistic regression (older files); None for prototypes, the mean embeddings of the classes. scale: multiplies scores
    before the softmax. validation: None if no class had two photos. threshold: the distance beyond which a photo
    belongs to none of the classes; None if unknown, as without validation.
    """

    labels: Annotated[list[Label], Meta(min_length=2, max_length=MAX_CLASSES)]
    photos: list[Positive]
    kind: Kind
    strength: Annotated[float, Meta(gt=0)] | None
    scale: Annotated[float, Meta(gt=0, le=MAX_NUMBER)]
    space: Literal["student", "teacher"]
    model: ModelId
    revision: Text
    artifact: FileName
    how: Text
    solver: Text
    seed: Annotated[int, Meta(ge=0)]
    validation: CrossValidation | None
    threshold: float | None = None
    schema: Literal[1] = HEAD_SCHEMA

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.photos):
            raise ValueError(f"{len(self.labels)} labels, but photo counts for {len(self.photos)}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label occurs twice")


@dataclass(frozen=True, eq=False)
class CustomHead:
    """A head for your own classes: weight float32 (C, D), bias float32 (C,), and its description in `card`."""

    card: HeadCard
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        classes = len(self.card.labels)
        for name, array, shape in (("weight", self.weight, (classes, -1)), ("bias", self.bias, (classes,))):
            fits = array.dtype == np.float32 and array.ndim == len(shape) and len(array) == classes and array.size
            if not fits or not (np.abs(array) <= MAX_NUMBER).all():  # NaN is not
                raise InvalidHead(f"its {name} is {array.dtype} {array.shape}, too large or not finite: {_REFIT}")

    @property
    def labels(self) -> list[str]:
        """The classes, sorted; a prediction's index refers to this list."""
        return self.card.labels

    @property
    def output(self) -> str:
        """The graph output that the head takes as input."""
        return OUTPUTS[self.card.space]

    def logits(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Embeddings float32 (N, D) -> float32 (N, C), whose softmax is the scores.

        The scores of a head fitted to n photos never exceed (n + 1) / (n + 2).
        """
        return bounded(self._scores(embeddings) * np.float32(self.card.scale), sum(self.card.photos))

    def distances(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Embeddings float32 (N, D) -> float32 (N,): distance to the nearest class, as in `leap_zoo.doubt`.

        A photo beyond `card.threshold` belongs to none of the classes.
        """
        return distances(self._scores(embeddings))

    def _scores(self, embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = embeddings @ self.weight.T + self.bias
        return scores

    def check(self, model: ModelCard) -> None:
        """Raises InvalidHead unless the head was fitted for this model's revision (with any of its artifacts)."""
        ours, theirs = (self.card.model, self.card.revision), (model.id, model.revision)
        width = getattr(model.embedding_dims, self.card.space)
        if ours != theirs:
            raise InvalidHead(
                f"the head was fitted for {ours[0]} {short(ours[1])}, this is {theirs[0]} {short(theirs[1])}: {_REFIT}"
            )
        if self.weight.shape[1] != width:
            raise InvalidHead(
                f"the head takes embeddings of {self.weight.shape[1]} numbers, those of {model.id} in the "
                f"{self.card.space} space have {width}: {_REFIT}"
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the head to one file, atomically; the same head gives the same bytes. Raises InvalidArgument."""
        target = new_file(path, SUFFIX)
        with saved_file(target) as file:
            file.write(encode_head(self))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CustomHead:
        """Read a head's file. Raises InvalidHead, and InvalidArgument for anything but a path."""
        with failing_as(InvalidHead, f"{short(path)} cannot be read", "give a file written by leap-zoo fit"):
            data = read_regular(path, MAX_HEAD_BYTES)
        try:
            return decode_head(data)
        except InvalidHead as error:
            raise InvalidHead(f"{short(path)}: {error}") from error


class _Tensor(Strict, frozen=True):
    dtype: Literal["F32"]
    shape: Annotated[list[Positive], Meta(min_length=1, max_length=2)]
    data_offsets: tuple[int, int]


class _Metadata(Strict, frozen=True):
    leap_head: str


class _Header(Strict, frozen=True, rename={"metadata": "__metadata__"}):
    metadata: _Metadata
    weight: _Tensor
    bias: _Tensor


def encode_head(head: CustomHead) -> bytes:
    """The bytes of a head's file. Raises InvalidHead if they could not be read back."""
    weight, bias = head.weight.astype("<f4").tobytes(), head.bias.astype("<f4").tobytes()
    end = len(weight) + len(bias)
    header = msgspec.json.encode(
        _Header(
            metadata=_Metadata(leap_head=msgspec.json.encode(head.card).decode()),
            weight=_Tensor(dtype="F32", shape=list(head.weight.shape), data_offsets=(0, len(weight))),
            bias=_Tensor(dtype="F32", shape=list(head.bias.shape), data_offsets=(len(weight), end)),
        )
    )
    header += b" " * (-len(header) % 8)  # the format aligns the numbers
    data = len(header).to_bytes(8, "little") + header + weight + bias
    decode_head(data)
    return data


def decode_head(data: bytes) -> CustomHead:
    """Decode a head from the bytes of its file. Raises InvalidHead."""
    if len(data) > MAX_HEAD_BYTES:
        raise InvalidHead(f"more than {MAX_HEAD_BYTES / 2**20:.0f} MiB, the size limit for heads: {_REFIT}")
    length = int.from_bytes(data[:8], "little")
    start = 8 + length
    if len(data) < 8 or length > MAX_HEADER_BYTES or start > len(data):
        raise InvalidHead(f"not a head file, or truncated: {_REFIT}")
    try:
        header = msgspec.json.decode(data[8:start], type=_Header)
        card = msgspec.json.decode(header.metadata.leap_head, type=HeadCard)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidHead(f"not a head that this version of leap-zoo reads ({short(error, 200)}): {_REFIT}") from error
    classes, shape = len(card.labels), header.weight.shape
    middle = 4 * classes * shape[-1]
    end = middle + 4 * classes
    expected = ([classes, shape[-1]], (0, middle), [classes], (middle, end))
    found = (shape, header.weight.data_offsets, header.bias.shape, header.bias.data_offsets)
    if found != expected or len(data) != start + end:
        raise InvalidHead(f"its data does not match its header: {_REFIT}")
    numbers = np.frombuffer(data, "<f4", offset=start).astype(np.float32)
    return CustomHead(card, numbers[: middle // 4].reshape(classes, -1), numbers[middle // 4 :])
