"""The k-nearest-neighbour vote."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.errors import TrainError

QUERIES, GALLERY = 512, 65_536  # rows that are compared at a time: some 130 MB, however many photos there are


@torch.no_grad()
def knn(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, *, k: int, temperature: float = 0.07) -> Tensor:
    """Weighted k-nearest-neighbour vote (Wu et al. 2018): cosine similarity, weights exp(similarity / temperature).

    gallery (G, D), gallery_labels (G,), queries (Q, D) -> predicted classes (Q,). Runs on a GPU where there is one.
    Raises TrainError for features that are not finite.
    """
    if not (gallery.isfinite().all() and queries.isfinite().all()):
        raise TrainError("some features are not finite: look for NaN in the student's weights")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels, classes = gallery_labels.to(device), int(gallery_labels.max()) + 1
    votes = []
    for part in functional.normalize(queries, dim=1).split(QUERIES):
        part = part.to(device)
        best, nearest = (
            torch.empty(len(part), 0, device=device),
            torch.empty(len(part), 0, dtype=torch.long, device=device),
        )
        for start in range(0, len(gallery), GALLERY):
            rows = functional.normalize(gallery[start : start + GALLERY].to(device), dim=1)
            similarity, found = (part @ rows.T).topk(min(k, len(rows)), dim=1)  # (q, k)
            best, nearest = torch.cat([best, similarity], 1), torch.cat([nearest, found + start], 1)
            best, kept = best.topk(min(k, best.shape[1]), dim=1)
            nearest = nearest.gather(1, kept)
        weights = (best / temperature).exp()
        tally = torch.zeros(len(part), classes, device=device).scatter_add_(1, labels[nearest], weights)
        votes.append(tally.argmax(1).cpu())
    return torch.cat(votes)
