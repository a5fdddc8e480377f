"""Persistent nearest-neighbor search over embeddings: the interface, the kind of a gallery, and `open_gallery`.

    model = leap_zoo.load("leap-tiny")
    with open_gallery("gallery", model=model) as gallery:
        gallery.add(["a.jpg", "b.jpg"], model.embed(["a.jpg", "b.jpg"]), [{"label": "cat"}, {"label": "dog"}])
        gallery.search(model.embed(["query.jpg"]), k=10, where={"label": "cat"})  # [[Hit(id, score, metadata), ...]]

A folder is searched exactly (`flat`); a Qdrant server is for galleries that outgrow one machine (`qdrant`).
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from leap_zoo.card import ModelCard, Positive, Text
from leap_zoo.errors import InvalidArgument, InvalidGallery, UnknownSpace, nearest, short, whole_number
from leap_zoo.files import check_place

if TYPE_CHECKING:
    from leap_zoo.model import Model

MAX_ID = 4096  # characters: the longest path
MAX_METADATA = 16 * 1024  # bytes of JSON per item
MAX_K = 10_000
EXPORT_ROWS = 1024

Vectors = npt.NDArray[np.float32]
Value = str | int | float | bool | None
Metadata = Mapping[str, Value]
Where = Mapping[str, str | int | bool]
SPACES = ("student", "teacher")

_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The kind of vectors in a gallery: their model, embedding space, length and metric.

    The files of one revision (int8, fp16, fp32) share a gallery, because export checks that their embeddings agree.
    """

    model: Text
    revision: Text
    space: Literal["student", "teacher"]
    dim: Annotated[Positive, msgspec.Meta(le=65536)]
    metric: Literal["cosine"] = "cosine"

    @classmethod
    def of(cls, model: Model | ModelCard, space: str = "student") -> Kind:
        """The kind of `model.embed(..., space=space)`. Raises UnknownSpace."""
        card = model if isinstance(model, ModelCard) else model.card
        if space not in SPACES:
            raise UnknownSpace(f"unknown space {short(space)}{nearest(str(space), SPACES)}")
        dim = getattr(card.embedding_dims, space)
        return cls(model=card.id, revision=card.revision, space=space, dim=dim)  # type: ignore[arg-type]

    @classmethod
    def of_teacher(cls, model: Model | ModelCard) -> Kind:
        """The kind of the teacher's own embeddings, which every student of that teacher can query.

        Its revision is a digest of the card's entry on the teacher's weights, so it outlives the student's revisions.
        Raises InvalidArgument if the card names no teacher.
        """
        card = model if isinstance(model, ModelCard) else model.card
        if card.training is None:
            raise InvalidArgument(f"the card of {card.id} names no teacher: pass the gallery's kind explicitly")
        teacher = card.training.teacher
        revision = hashlib.sha256(teacher.provenance.encode()).hexdigest()[:12]
        return cls(model=teacher.name, revision=revision, space="teacher", dim=card.embedding_dims.teacher)

    def __str__(self) -> str:
        return f"{self.model} {self.revision}, {self.space} space, length {self.dim}"


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result: its id, its cosine similarity to the query (-1..1), and its metadata."""

    id: str
    score: float
    metadata: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Item:
    """A stored vector's id and metadata."""

    id: str
    metadata: dict[str, Value]


class Gallery(ABC):
    """Vectors of one kind, by id, with metadata. Thread-safe.

    Attributes: `kind`, the kind of its vectors; `read_only`, True for a teacher's gallery, which a student may only
    query.
    """

    kind: Kind
    read_only: bool = False

    def add(self, ids: Sequence[str], vectors: npt.ArrayLike, metadata: Sequence[Metadata] | None = None) -> None:
        """Add or replace items: vectors (N, D), which need not be normalized, for N ids; durable once it returns.

        A gallery in a folder adds all of them or none. metadata: at most 16 KiB of JSON per item, with strings,
        numbers, booleans or None, under names of letters, digits, `_` and `-`. Raises InvalidArgument, InvalidGallery.
        """
        self._refuse_if_read_only()
        names = checked_ids(ids)
        rows = self._unit_rows(_array(vectors))
        if len(rows) != len(names):
            raise InvalidArgument(f"{len(names)} ids need the same number of vectors, not {len(rows)}")
        fields = checked_metadata(metadata, len(names))
        if names:
            self._add(names, rows, fields)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete items and return how many existed; unknown ids are ignored."""
        self._refuse_if_read_only()
        return self._delete(checked_ids(ids))

    def search(self, vectors: npt.ArrayLike, k: int = 10, where: Where | None = None) -> list[Any]:
        """The k nearest items, best first: list[Hit] for one vector (D,), list[list[Hit]] for (Q, D).

        A gallery with fewer items returns fewer.

        where: only items whose metadata has these values (strings, whole numbers or booleans, of the same type).
        Raises InvalidArgument, InvalidGallery.
        """
        k = whole_number(k, "k", 1, MAX_K)
        conditions = checked_where(where or {})
        queries = _array(vectors)
        one = queries.ndim == 1
        found = self._search(self._unit_rows(queries[None] if one else queries), k, conditions)
        return found[0] if one else found

    @abstractmethod
    def count(self) -> int:
        """The number of items."""

    @abstractmethod
    def items(self, offset: int = 0, limit: int | None = None, *, after: str | None = None) -> list[Item]:
        """Items in the gallery's own order, which is stable while nothing is written.

        after: begin after the item with this id, even if earlier items were deleted. Raises InvalidArgument if it does
        not exist.
        """

    @abstractmethod
    def export(self) -> Iterator[tuple[list[str], Vectors, list[dict[str, Value]]]]:
        """Everything, in batches (ids, unit vectors, metadata) that another gallery's `add` accepts."""

    def discard_if_empty(self) -> None:  # noqa: B027 (only the owner of a server deletes its collections)
        """Remove the gallery's folder if nothing was added to it."""

    def close(self) -> None:  # noqa: B027 (a folder keeps nothing open)
        """Close connections."""

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _add(self, ids: list[str], rows: Vectors, metadata: list[dict[str, Value]]) -> None:
        """Add at least one item; arguments are already checked, and rows (N, D) have unit length."""

    @abstractmethod
    def _delete(self, ids: list[str]) -> int: ...

    @abstractmethod
    def _search(self, queries: Vectors, k: int, where: Where) -> list[list[Hit]]: ...

    def _unit_rows(self, array: npt.NDArray[Any]) -> Vectors:
        """Rows scaled to unit length. Raises InvalidArgument for other shapes, zero rows and non-finite values."""
        if array.ndim != 2 or array.shape[1] != self.kind.dim or array.dtype.kind not in "fiu":
            got = f"{array.dtype} {array.shape}"
            raise InvalidArgument(
                f"vectors must be numbers of shape (N, {self.kind.dim}), as in this gallery, not {got}"
            )
        with np.errstate(over="ignore"):  # to infinity, which is refused
            lengths = np.sqrt(np.square(array, dtype=np.float64).sum(axis=1, keepdims=True))
        if not np.isfinite(lengths).all() or not (lengths > 0).all():
            raise InvalidArgument("a vector is zero or not finite, so it has no direction to compare: leave it out")
        return np.ascontiguousarray(array / lengths, dtype=np.float32)

    def _refuse_if_read_only(self) -> None:
        if self.read_only:
            raise InvalidGallery(
                f"this gallery holds embeddings of {self.kind}, which a student may only query: open it with "
                "kind=Kind.of_teacher(model) to add embeddings of the teacher"
            )


def open_gallery(
    location: str | os.PathLike[str],
    *,
    model: Model | ModelCard | None = None,
    space: str = "student",
    kind: Kind | None = None,
    create: bool = True,
) -> Gallery:
    """A gallery in a folder, or a collection of a Qdrant server: `qdrant://HOST:PORT/COLLECTION`, `http(s)://...`.

    model, space: the source of the embeddings to add and search with; or give `kind` itself. Without either, an
    existing gallery is opened with its own kind. In the teacher's space, a gallery of the teacher itself may be queried
    too.
    create: create the gallery if it does not exist (needs a model or a kind).
    Raises InvalidGallery (also if the vectors are of another kind), InvalidArgument, UnknownSpace, MissingExtra.
    """
    if isinstance(model, (str, os.PathLike)):
        raise InvalidArgument(
            f"model must be a Model or its card, not a name: pass model=leap_zoo.load({short(model)})"
        )
    wanted = kind if kind is not None or model is None else Kind.of(model, space)
    text = check_place(location, "the gallery")
    if "://" in text:
        from leap_zoo.gallery.qdrant import QdrantGallery

        gallery: Gallery = QdrantGallery.open_url(text, wanted if create else None)
    else:
        from leap_zoo.gallery.flat import FlatGallery

        gallery = FlatGallery(Path(text), wanted if create else None)
    if wanted is not None and gallery.kind != wanted:
        found = gallery.kind
        if kind is not None or model is None or found.space != space or not can_query(model, found):
            gallery.close()
            raise InvalidGallery(
                f"the gallery {short(text)} holds embeddings of {found}, not of {wanted}, and these cannot be "
                "compared: give another gallery, or the model and space that it was made with"
            )
        gallery.read_only = True
    return gallery


def can_query(model: Model | ModelCard, kind: Kind) -> bool:
    """Whether the embeddings of `model` in the space of `kind` may search a gallery of that kind."""
    card = model if isinstance(model, ModelCard) else model.card
    if Kind.of(card, kind.space) == kind:
        return True
    return kind.space == "teacher" and card.training is not None and Kind.of_teacher(card) == kind


def paged(items: Iterable[Item], offset: int, limit: int | None) -> list[Item]:
    """Items from `offset` on, at most `limit` of them. Raises InvalidArgument for numbers below 0."""
    start = whole_number(offset, "offset", 0)
    return list(islice(items, start, None if limit is None else start + whole_number(limit, "limit", 0)))


def no_such_item(name: str) -> InvalidArgument:
    """The error for a page that begins after an item that does not exist."""
    return InvalidArgument(f"there is no item {short(name)} to begin after (it may have been deleted): start over")


def _array(vectors: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(vectors)
    except ValueError as error:
        raise InvalidArgument("vectors must be numbers of shape (N, D), with rows of equal length") from error


def checked_ids(ids: Sequence[str]) -> list[str]:
    """The ids as a list. Raises InvalidArgument unless they are distinct Unicode strings without null characters."""
    if isinstance(ids, str):
        raise InvalidArgument(f"ids must be a list of strings, not one string: pass [{short(ids)}]")
    names = _listed("ids", ids)
    for one in names:
        # numpy drops a null at the end of a text.
        if not isinstance(one, str) or not 0 < len(one) <= MAX_ID or not _encodes(one) or "\0" in one:
            raise InvalidArgument(f"an id must be 1 to {MAX_ID} Unicode characters without a null, not {short(one)}")
    if len(set(names)) != len(names):
        raise InvalidArgument("the same id occurs twice in one call: give each id once")
    return [str(one) for one in names]


def checked_metadata(metadata: Sequence[Metadata] | None, count: int) -> list[dict[str, Value]]:
    """One dictionary per item. Raises InvalidArgument."""
    if metadata is None:
        return [{} for _ in range(count)]
    each = _listed("metadata", metadata)
    if len(each) != count:
        raise InvalidArgument(f"{count} ids need the same number of metadata, not {len(each)}")
    plain = [_plain_fields("metadata", fields) for fields in each]
    size = max(map(len, map(msgspec.json.encode, plain)), default=0)
    if size > MAX_METADATA:
        raise InvalidArgument(
            f"the metadata of one item has {size} bytes (limit: {MAX_METADATA}): store large values elsewhere"
        )
    return plain


def checked_where(where: Where) -> dict[str, str | int | bool]:
    """The conditions of a search. Raises InvalidArgument."""
    conditions: dict[str, str | int | bool] = {}
    for key, value in _plain_fields("where", where).items():
        if value is None or isinstance(value, float):
            raise InvalidArgument(f"where {short(key)} must be a string, a whole number or a boolean, not {value}")
        conditions[key] = value
    return conditions


def _listed(what: str, values: Any) -> list[Any]:
    if not isinstance(values, Iterable):
        raise InvalidArgument(f"{what} must be a list, not {type(values).__name__}")
    return list(values)


def _plain_fields(what: str, fields: Mapping[str, Any]) -> dict[str, Value]:
    """Metadata with NumPy scalars as Python's. Raises InvalidArgument for values that JSON or a server cannot store."""
    if not isinstance(fields, Mapping):
        raise InvalidArgument(f"{what} must be a dict of names and values, not {type(fields).__name__}")
    plain: dict[str, Value] = {}
    for key, value in fields.items():
        if not isinstance(key, str) or not _NAME.match(key):
            raise InvalidArgument(f"{what} {short(key)} has an invalid name: use letters, digits, _ and -")
        value = value.item() if isinstance(value, np.generic) else value
        if not (
            (type(value) is str and _encodes(value))
            or (type(value) is int and -(2**63) <= value < 2**63)
            or (type(value) is float and math.isfinite(value))
            or type(value) is bool
            or value is None
        ):
            allowed = "a string, a finite number (integers: 64 bits), a boolean or None"
            raise InvalidArgument(f"{what} {short(key)} must be {allowed}, not {short(value)}")
        plain[key] = value
    return plain


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
