"""The k-nearest-neighbour vote."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.errors import TrainError
from train.evaluate.scores import check_finite

QUERIES, GALLERY = 512, 65_536  # rows that are compared at a time: some 130 MB, however many photos there are


@torch.no_grad()
def knn(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, *, k: int, temperature: float = 0.07) -> Tensor:
    """Weighted k-nearest-neighbour vote (Wu et al. 2018): cosine similarity, weights exp(similarity / temperature).

    gallery (G, D), gallery_labels (G,), queries (Q, D) -> predicted classes (Q,). Runs on a GPU where there is one.
    Raises TrainError for an empty gallery, and for features that are not finite.
    """
    if not len(gallery):
        raise TrainError("there are no photos to find neighbours among")
    check_finite(gallery)
    check_finite(queries)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    best = torch.empty(len(queries), 0, device=device)
    nearest = torch.empty(len(queries), 0, dtype=torch.long, device=device)
    for start in range(0, len(gallery), GALLERY):
        rows = functional.normalize(gallery[start : start + GALLERY].to(device), dim=1)
        found = [
            (functional.normalize(part.to(device), dim=1) @ rows.T).topk(min(k, len(rows)), dim=1)  # (q, k)
            for part in queries.split(QUERIES)
        ]
        best = torch.cat([best, torch.cat([part.values for part in found])], 1)
        nearest = torch.cat([nearest, torch.cat([part.indices for part in found]) + start], 1)
        best, kept = best.topk(min(k, best.shape[1]), dim=1)
        nearest = nearest.gather(1, kept)
    votes, weights = gallery_labels.to(device)[nearest], (best / temperature).exp()
    empty = torch.zeros(QUERIES, int(gallery_labels.max()) + 1, device=device)
    tallies = zip(votes.split(QUERIES), weights.split(QUERIES), strict=True)
    return torch.cat([empty[: len(vote)].scatter_add(1, vote, weight).argmax(1).cpu() for vote, weight in tallies])
