"""What is near by cosine similarity: the k-nearest-neighbour vote, and retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from train.errors import TrainError
from train.evaluate.scores import check_finite
from train.hardware import DEVICE

SIMILARITIES = 2**25  # that are computed at a time: 134 MB
Found = tuple[Tensor, Tensor]  # average precision and recall at 1 of each query that has a right answer, (Q',) float64


def similarities(gallery: Tensor, queries: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Cosines (q, G) of gallery (G, D) and a slice of queries (Q, D) at a time, on the device of the gallery."""
    rows = functional.normalize(gallery.float(), dim=1)
    block = max(1, SIMILARITIES // max(1, len(gallery)))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        yield part, functional.normalize(queries[part].to(rows), dim=1) @ rows.T


def knn(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, *, k: int, temperature: float = 0.07) -> Tensor:
    """Weighted k-nearest-neighbour vote (Wu et al. 2018): cosine similarity, weights exp(similarity / temperature).

    gallery (G, D), gallery_labels (G,), queries (Q, D) -> predicted classes (Q,). Runs on a GPU where there is one.
    Raises TrainError for an empty gallery, and for features that are not finite.
    """
    if not len(gallery):
        raise TrainError("there are no photos to find neighbours among")
    check_finite(gallery)
    check_finite(queries)
    labels, classes = gallery_labels.to(DEVICE), int(gallery_labels.max()) + 1
    predicted = [torch.empty(0, dtype=torch.long)]
    for _, similarity in similarities(gallery.to(DEVICE), queries):
        best, nearest = similarity.topk(min(k, len(gallery)), dim=1)  # (q, k)
        votes = torch.zeros(len(best), classes, device=DEVICE)
        predicted.append(votes.scatter_add(1, labels[nearest], (best / temperature).exp()).argmax(1).cpu())
    return torch.cat(predicted)


def retrieve(
    gallery: Tensor, gallery_labels: Tensor, queries: Tensor, query_labels: Tensor, *, same: Tensor | None = None
) -> Found:
    """Rank the gallery for each query by cosine; photos of the query's class are right; ties keep the gallery's order.

    gallery (G, D), gallery_labels (G,), queries (Q, D), query_labels (Q,). same (Q,) int64: the query's own position in
    the gallery, which is left out of its ranking; -1 for none. Average precision is the mean, over right answers, of
    the precision at their ranks.
    """
    return _rank(gallery, queries, lambda part: gallery_labels == query_labels[part, None], same)


def retrieve_listed(gallery: Tensor, queries: Tensor, answers: Sequence[Sequence[int]]) -> Found:
    """As `retrieve`; answers: for each query, the positions in the gallery that are right."""

    def right_of(part: slice) -> Tensor:
        right = torch.zeros(len(answers[part]), len(gallery), dtype=torch.bool)
        for row, found in zip(right, answers[part], strict=True):
            row[list(found)] = True
        return right

    return _rank(gallery, queries, right_of, None)


def _rank(gallery: Tensor, queries: Tensor, right_of: Callable[[slice], Tensor], same: Tensor | None) -> Found:
    precisions, firsts = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.float64)]
    ranks = torch.arange(1, len(gallery) + 1, dtype=torch.float64)
    for part, similarity in similarities(gallery, queries):  # (q, G)
        right = right_of(part)  # (q, G)
        if same is not None:
            rows = (same[part] >= 0).nonzero().flatten()
            own = same[part][rows]
            similarity[rows, own], right[rows, own] = -torch.inf, False  # ranked last, and not an answer
        hits = right.gather(1, similarity.argsort(dim=1, descending=True, stable=True))  # (q, G), best first
        hits = hits[hits.any(1)]
        precisions.append((hits.double().cumsum(1) / ranks * hits).sum(1) / hits.sum(1))
        firsts.append(hits[:, :1].any(1).double())
    return torch.cat(precisions), torch.cat(firsts)
