"""Photos as vectors that a gallery can hold, or be searched for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from leap_zoo.gallery import Kind
from serve.api.predict import ModelOptions
from serve.engine import Embedded, Engine, Space
from serve.problems import Refused
from serve.shelves import About
from serve.stores import require


class CompareOptions(ModelOptions):
    """Which model embeds photos for a gallery, in which of its spaces."""

    space: Space | None = Field(None, description="default: the gallery's, and student for a new one")


@dataclass(frozen=True)
class Compared:
    """Embeddings of photos, and what they are of."""

    kind: Kind
    answer: Embedded


async def embed_for(
    engine: Engine, gallery: About | None, photos: Sequence[bytes], options: CompareOptions
) -> Compared:
    """Embed with the gallery's own model and in its space; None: for a new gallery.

    Raises Refused (409) when the options name another model or space, before any photo is looked at, or when the model
    has another revision by now; and as `Engine.embed` does.
    """
    model, space = options.model, options.space
    if gallery is not None:
        _check(gallery, options)
        model, space = gallery.kind.model, gallery.kind.space
    answer = await engine.embed(photos, model=model, precision=options.precision, space=space or "student")
    kind = Kind(model=answer.model, revision=answer.revision, space=answer.space, dim=answer.embeddings.shape[1])
    if gallery is not None:
        require(gallery.kind, kind)
    return Compared(kind, answer)


def of_kind(kind: Kind) -> dict[str, Any]:
    """What an answer says of whose embeddings a gallery holds."""
    return {"model": kind.model, "revision": kind.revision, "space": kind.space, "dim": kind.dim}


def _check(gallery: About, options: CompareOptions) -> None:
    held = gallery.kind
    if (options.model or held.model, options.space or held.space) != (held.model, held.space):
        detail = f"The gallery holds embeddings of {held}: leave out `model` and `space`, or take another gallery."
        raise Refused(409, "other_embeddings", detail)
