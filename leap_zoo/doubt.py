"""Doubt: how sure an answer may be after so many photos, and when a photo is like nothing that was learned.

They take the scores of a linear classifier, float32 (N, C), before the softmax.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FALSE_ALARMS = 0.05

Floats = npt.NDArray[np.float32]


def bounded(logits: Floats, photos: int) -> Floats:
    """Log probabilities (N, C) of logits (N, C), none above (photos + 1) / (photos + 2); the order stays.

    That is Laplace's rule of succession: how likely the next photo is to be right after so many without a mistake. What
    is above goes to the other classes in equal shares. photos: at least 1.
    """
    most, rows, best = (photos + 1) / (photos + 2), np.arange(len(logits)), logits.argmax(axis=1)
    shares = np.exp(logits - logits[rows, best][:, None])
    shares /= shares.sum(axis=1, keepdims=True)
    surplus = np.maximum(shares[rows, best] - most, 0)
    shares += surplus[:, None] / (logits.shape[1] - 1)
    shares[rows, best] = np.minimum(shares[rows, best], most)
    result: Floats = np.log(np.maximum(shares, np.finfo(np.float32).tiny)).astype(np.float32)
    return result


def distances(scores: Floats) -> Floats:
    """How far embeddings are from the nearest class (N,), by how little the best of their scores (N, C) is.

    For unit vectors and class means as weights it is the squared distance to the nearest mean.
    """
    result: Floats = 1 - 2 * scores.max(axis=1)
    return result


def energies(logits: Floats) -> Floats:
    """How far photos are from all classes of a trained head (N,): -log of the sum of exp(logits), logits (N, C).

    Logits are linear in the embedding, so it is a soft distance to the nearest class there, which also grows as an
    embedding shrinks: Liu et al. 2020, "Energy-based out-of-distribution detection".
    """
    most = logits.max(axis=1)
    result: Floats = -(most + np.log(np.exp(logits - most[:, None]).sum(axis=1)))
    return result


def threshold(found: Floats) -> float:
    """The distance that FALSE_ALARMS of such photos exceed, from the distances (N,) of photos put aside.

    It is the split-conformal quantile: a further photo of the same kind is beyond it with at most that probability.
    Below 19 photos no quantile promises that much; then it is the largest distance, which 1 in N + 1 exceed.
    """
    rank = min(math.ceil((len(found) + 1) * (1 - FALSE_ALARMS)), len(found))
    return float(np.sort(found)[rank - 1])
