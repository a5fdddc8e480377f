"""Retrieval by cosine similarity: does a query find the photos of its own class?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256  # queries that are ranked at a time


@dataclass(frozen=True)
class Retrieval:
    """Per query that has at least one right answer in the gallery (Q',): average precision and recall at 1."""

    average_precision: Tensor
    recall_at_1: Tensor
    without_answer: int  # queries left out: none of the gallery is of their class


def retrieve(
    gallery: Tensor, gallery_labels: Tensor, queries: Tensor, query_labels: Tensor, *, same: Tensor | None = None
) -> Retrieval:
    """Rank the gallery for each query by cosine; of the query's class is right; ties keep the gallery's order.

    gallery (G, D), gallery_labels (G,), queries (Q, D), query_labels (Q,). same (Q,) int64: the query's own position in
    the gallery, which is left out of its ranking; -1 for none. Average precision is the mean, over right answers, of
    the precision at their ranks.
    """
    return _rank(gallery, queries, lambda part: gallery_labels[None] == query_labels[part, None], same)


def retrieve_listed(gallery: Tensor, queries: Tensor, right: Tensor, *, same: Tensor | None = None) -> Retrieval:
    """As `retrieve`, where right (Q, G) bool says which answers are."""
    return _rank(gallery, queries, lambda part: right[part].clone(), same)


@torch.no_grad()
def _rank(gallery: Tensor, queries: Tensor, right_of: Callable[[slice], Tensor], same: Tensor | None) -> Retrieval:
    gallery = functional.normalize(gallery.float(), dim=1)
    precisions, firsts, empty = [], [], 0
    ranks = torch.arange(1, len(gallery) + 1, dtype=torch.float64)
    for start in range(0, len(queries), BLOCK):
        part = slice(start, start + BLOCK)
        similarity = functional.normalize(queries[part].float(), dim=1) @ gallery.T  # (q, G)
        right = right_of(part)  # (q, G)
        if same is not None:
            own = same[part]
            rows = (own >= 0).nonzero().flatten()
            similarity[rows, own[rows]] = -torch.inf  # ranked last, and no answer
            right[rows, own[rows]] = False
        order = similarity.argsort(dim=1, descending=True, stable=True)
        hits = right.gather(1, order)  # (q, G), best first
        answers = hits.sum(1)
        kept = answers > 0
        empty += int((~kept).sum())
        precision = (hits.double().cumsum(1) / ranks * hits).sum(1) / answers
        precisions.append(precision[kept])
        firsts.append(hits[kept, 0].double())
    return Retrieval(torch.cat(precisions), torch.cat(firsts), empty)
