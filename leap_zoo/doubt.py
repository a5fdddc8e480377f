"""Doubt: how confident an answer may be, and when a photo is unlike everything in training.

The functions take the scores of a linear classifier, float32 (N, C), before the softmax.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FALSE_ALARMS = 0.05

Floats = npt.NDArray[np.float32]


def bounded(logits: Floats, photos: int) -> Floats:
    """Log probabilities (N, C) of logits (N, C), capped at (photos + 1) / (photos + 2); the order does not change.

    The cap is Laplace's rule of succession: the chance that the next photo is right after `photos` without a mistake.
    The surplus goes to the other classes in equal shares. photos: at least 1.
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
    """Distance of embeddings to the nearest class (N,), from their best score in (N, C): the lower, the farther.

    With unit vectors, and class means as weights, it is the squared distance to the nearest mean.
    """
    result: Floats = 1 - 2 * scores.max(axis=1)
    return result


def energies(logits: Floats) -> Floats:
    """Distance of photos to all classes of a trained head (N,): -log(sum(exp(logits))), logits (N, C).

    Logits are linear in the embedding, so this is a soft distance to the nearest class. It also grows as the embedding
    shrinks (Liu et al. 2020, "Energy-based out-of-distribution detection").
    """
    most = logits.max(axis=1)
    result: Floats = -(most + np.log(np.exp(logits - most[:, None]).sum(axis=1)))
    return result


def threshold(found: Floats) -> float:
    """The distance that a share FALSE_ALARMS of such photos exceeds, from the distances (N,) of held-out photos.

    It is the split-conformal quantile: another photo of the same kind exceeds it with at most that probability. With
    fewer than 19 photos no quantile can guarantee this; then it is the largest distance, which 1 in N + 1 exceeds.
    """
    rank = min(math.ceil((len(found) + 1) * (1 - FALSE_ALARMS)), len(found))
    return float(np.sort(found)[rank - 1])
