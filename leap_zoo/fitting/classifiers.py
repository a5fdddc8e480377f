"""Linear classifiers of embeddings: what a head can be, and how each kind learns.

All take embeddings float32 (N, D) of unit length and labels int (N,) in 0..C-1, every class at least once, and give
weight float32 (C, D) and bias float32 (C,).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from leap_zoo.heads import Kind

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.intp]

LOGISTIC_STRENGTHS = (1.0, 10.0, 100.0)  # C on unit vectors: .1 underfits however many photos there are
SHRINKAGES = (0.1, 0.3, 0.6, 0.9)


@dataclass(frozen=True)
class Candidate:
    """A kind of classifier and its strength: C of the logistic regression, the shrinkage of the discriminant."""

    kind: Kind
    strength: float | None = None

    def __str__(self) -> str:
        names = {"prototypes": "", "logistic": ", C = {:g}", "discriminant": ", shrinkage {:g}"}
        return self.kind + names[self.kind].format(self.strength)


PROTOTYPES = Candidate("prototypes")


def candidates() -> list[Candidate]:
    """What can be fitted here, simplest first: prototypes, then logistic regressions where scikit-learn is installed,
    discriminants in closed form where it is not.
    """
    if _logistic_regression() is None:
        return [PROTOTYPES, *(Candidate("discriminant", shrinkage) for shrinkage in SHRINKAGES)]
    return [PROTOTYPES, *(Candidate("logistic", strength) for strength in LOGISTIC_STRENGTHS)]


def solver(kind: Kind) -> str:
    """What computes this kind here, with its version."""
    if kind == "logistic":
        import sklearn

        return f"scikit-learn {sklearn.__version__}"
    return f"numpy {np.__version__}"


def train(candidate: Candidate, embeddings: Floats, labels: Labels, classes: int) -> tuple[Floats, Floats]:
    """weight (C, D) and bias (C,) of a candidate."""
    if candidate.strength is None:
        return _prototypes(embeddings, labels, classes)
    if candidate.kind == "logistic":
        return _logistic(embeddings, labels, classes, candidate.strength)
    return _discriminant(embeddings, labels, classes, candidate.strength)


def _prototypes(embeddings: Floats, labels: Labels, classes: int) -> tuple[Floats, Floats]:
    """Class means of unit length: scores are cosines."""
    means = _means(embeddings, labels, classes)
    norms = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return (means / norms).astype(np.float32), np.zeros(classes, np.float32)


def _logistic(embeddings: Floats, labels: Labels, classes: int, strength: float) -> tuple[Floats, Floats]:
    model = _logistic_regression()(C=strength, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not quite converged is good enough, and cross-validation judges it
        model.fit(embeddings.astype(np.float64), labels)
    weight, bias = model.coef_, model.intercept_
    if classes == 2:  # scikit-learn has one row for two classes: the second's logit, over a first of zero
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return weight.astype(np.float32), bias.astype(np.float32)


def _discriminant(embeddings: Floats, labels: Labels, classes: int, shrinkage: float) -> tuple[Floats, Floats]:
    """Linear discriminant analysis: class means seen through the inverse of one covariance for all classes.

    The covariance is drawn towards a multiple of the identity by `shrinkage` (0..1), so that it has an inverse; every
    class is held to be as likely as any other.
    """
    means = _means(embeddings, labels, classes)
    rest = embeddings - means[labels]
    width = embeddings.shape[1]
    covariance = rest.T @ rest / len(rest)
    spread = max(float(np.trace(covariance)) / width, 1e-6)
    covariance = (1 - shrinkage) * covariance + shrinkage * spread * np.eye(width)
    weight = np.linalg.solve(covariance, means.T).T
    return weight.astype(np.float32), (-0.5 * (weight * means).sum(axis=1)).astype(np.float32)


def _means(embeddings: Floats, labels: Labels, classes: int) -> npt.NDArray[np.float64]:
    return np.stack([embeddings[labels == label].mean(axis=0, dtype=np.float64) for label in range(classes)])


@lru_cache(maxsize=1)
def _logistic_regression() -> Any:
    """scikit-learn's class, or None."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    return LogisticRegression
