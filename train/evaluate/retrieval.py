"""Retrieval by cosine similarity: does a query find the photos of its own class, or those listed as its answers?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

SIMILARITIES = 2**25  # that are ranked at a time
Found = tuple[Tensor, Tensor]  # average precision and recall at 1 of each query that has a right answer, (Q',) float64


def retrieve(
    gallery: Tensor, gallery_labels: Tensor, queries: Tensor, query_labels: Tensor, *, same: Tensor | None = None
) -> Found:
    """Rank the gallery for each query by cosine; photos of the query's class are right; ties keep the gallery's order.

    gallery (G, D), gallery_labels (G,), queries (Q, D), query_labels (Q,). same (Q,) int64: the query's own position in
    the gallery, which is left out of its ranking; -1 for none. Average precision is the mean, over right answers, of
    the precision at their ranks.
    """
    return _rank(gallery, queries, lambda part: gallery_labels[None] == query_labels[part, None], same)


def retrieve_listed(gallery: Tensor, queries: Tensor, answers: Sequence[Sequence[int]]) -> Found:
    """As `retrieve`; answers: for each query, the positions in the gallery that are right."""

    def right_of(part: slice) -> Tensor:
        right = torch.zeros(len(answers[part]), len(gallery), dtype=torch.bool)
        for row, found in zip(right, answers[part], strict=True):
            row[list(found)] = True
        return right

    return _rank(gallery, queries, right_of, None)


@torch.no_grad()
def _rank(gallery: Tensor, queries: Tensor, right_of: Callable[[slice], Tensor], same: Tensor | None) -> Found:
    gallery = functional.normalize(gallery.float(), dim=1)
    precisions, firsts = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.float64)]
    ranks = torch.arange(1, len(gallery) + 1, dtype=torch.float64)
    block = max(1, SIMILARITIES // max(1, len(gallery)))
    for start in range(0, len(queries) if len(gallery) else 0, block):
        part = slice(start, start + block)
        similarity = functional.normalize(queries[part].float(), dim=1) @ gallery.T  # (q, G)
        right = right_of(part)  # (q, G)
        if same is not None:
            rows = (same[part] >= 0).nonzero().flatten()
            own = same[part][rows]
            similarity[rows, own], right[rows, own] = -torch.inf, False  # ranked last, and not an answer
        hits = right.gather(1, similarity.argsort(dim=1, descending=True, stable=True))  # (q, G), best first
        hits = hits[hits.any(1)]
        precisions.append((hits.double().cumsum(1) / ranks * hits).sum(1) / hits.sum(1))
        firsts.append(hits[:, 0].double())
    return torch.cat(precisions), torch.cat(firsts)
