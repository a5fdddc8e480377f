"""The k-nearest-neighbour vote."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def knn(gallery: Tensor, gallery_labels: Tensor, queries: Tensor, *, k: int, temperature: float = 0.07) -> Tensor:
    """Weighted k-nearest-neighbour vote (Wu et al. 2018): cosine similarity, weights exp(similarity / temperature).

    gallery (G, D), gallery_labels (G,), queries (Q, D) -> predicted classes (Q,).
    """
    gallery = functional.normalize(gallery, dim=1)
    one_hot = functional.one_hot(gallery_labels).float()  # (G, classes)
    votes = []
    for part in functional.normalize(queries, dim=1).split(512):
        similarity, nearest = (part @ gallery.T).topk(min(k, len(gallery)), dim=1)  # (q, k)
        weights = (similarity / temperature).exp()
        votes.append((weights[..., None] * one_hot[nearest]).sum(1).argmax(1))
    return torch.cat(votes)
