"""The Revisited Oxford and Paris protocol (Radenovic et al. 2018), for those who have the photos.

Ground truth is JSON; the original comes as a pickle, which we never open. Its content is the same:

    {"gallery": ["all_souls_000013", ...],
     "queries": [{"name": "all_souls_000013", "box": [x1, y1, x2, y2], "easy": [3, 17], "hard": [5], "junk": [8]}, ...]}

`box` is in pixels of the query's photo; easy, hard and junk are positions in `gallery`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional

from train.errors import TrainError

MOST_BYTES = 64_000_000  # a ground truth of a million positions is a tenth of it
Position = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]
CUTS = (1, 5, 10)


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A query photo, the box (x1, y1, x2, y2) in its pixels, and what the gallery holds of it."""

    name: Name
    box: tuple[float, float, float, float]
    easy: list[Position]
    hard: list[Position]
    junk: list[Position]


class GroundTruth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names of the gallery's photos, and the queries."""

    gallery: Annotated[list[Name], Meta(min_length=1)]
    queries: Annotated[list[Query], Meta(min_length=1)]


@dataclass(frozen=True)
class Protocol:
    """Which labels count as right, and which photos are taken out of the ranking first."""

    name: str
    right: tuple[str, ...]
    ignored: tuple[str, ...]


PROTOCOLS = (
    Protocol("easy", ("easy",), ("hard", "junk")),
    Protocol("medium", ("easy", "hard"), ("junk",)),
    Protocol("hard", ("hard",), ("easy", "junk")),
)


def read_ground_truth(path: Path) -> GroundTruth:
    """Read and check the JSON. Raises TrainError."""
    if path.suffix == ".pkl":
        raise TrainError(
            f"{path.name} is a pickle, which can run anything and is never opened; write it as JSON "
            "(docs/evaluation.md says how)"
        )
    try:
        if path.stat().st_size > MOST_BYTES:
            raise TrainError(f"{path.name} is larger than any ground truth ({MOST_BYTES // 1_000_000} MB)")
        truth = msgspec.json.decode(path.read_bytes(), type=GroundTruth)
    except (OSError, msgspec.MsgspecError) as error:
        raise TrainError(f"cannot read the ground truth {path}: {' '.join(str(error).split())}") from error
    for query in truth.queries:
        named = [*query.easy, *query.hard, *query.junk]
        if len(set(named)) < len(named):
            raise TrainError(f"query {query.name} names a photo twice: each is easy, hard or junk, once")
        if max(named, default=0) >= len(truth.gallery):
            raise TrainError(f"query {query.name} names a position behind the gallery's {len(truth.gallery)} photos")
    return truth


def average_precision(ranks: Tensor, right: int) -> float:
    """Area under precision over recall by the trapezoid rule, as the protocol's own evaluation has it.

    ranks: 0-based positions of the right photos in the ranking, ascending, photos to be ignored taken out before.
    right: how many there are to find, at least 1.
    """
    total = 0.0
    for found, rank in enumerate(ranks.tolist()):
        before = 1.0 if rank == 0 else found / rank
        total += (before + (found + 1) / (rank + 1)) / 2 / right
    return total


@dataclass(frozen=True)
class Ranking:
    """Per query with something to find: average precision (Q',), and precision at each of CUTS (Q', 3)."""

    average_precision: Tensor
    precision: Tensor


def rank(gallery: Tensor, queries: Tensor, truth: GroundTruth, protocol: Protocol) -> Ranking:
    """Rank gallery (G, D) for queries (Q, D), by cosine, in the order of `truth`; queries without answers left out.

    Precision at k is over the first k, or up to the last right one where that comes before, as in the original.
    """
    similarity = functional.normalize(queries.float(), dim=1) @ functional.normalize(gallery.float(), dim=1).T
    order = similarity.argsort(dim=1, descending=True, stable=True)
    precisions, at = [], []
    for row, query in zip(order, truth.queries, strict=True):
        right = torch.tensor([i for kind in protocol.right for i in getattr(query, kind)], dtype=torch.long)
        if not len(right):
            continue
        ignored = torch.tensor([i for kind in protocol.ignored for i in getattr(query, kind)], dtype=torch.long)
        kept = row[~torch.isin(row, ignored)]
        ranks = torch.isin(kept, right).nonzero().flatten()  # ascending
        precisions.append(average_precision(ranks, len(right)))
        cuts = [min(int(ranks.max()) + 1, cut) for cut in CUTS]
        at.append([int((ranks < cut).sum()) / cut for cut in cuts])
    return Ranking(torch.tensor(precisions, dtype=torch.float64), torch.tensor(at, dtype=torch.float64))
