"""Confidence intervals of measured shares."""

from __future__ import annotations

import math

Z95 = 1.959964  # two-sided 95 % of a normal distribution


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share (0..1) of n. It stays within 0..1 and holds near both ends.

    Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"a share of {n} has no interval: at least one observation is needed")
    centre = (share + Z95 * Z95 / (2 * n)) / (1 + Z95 * Z95 / n)
    half = Z95 / (1 + Z95 * Z95 / n) * math.sqrt(share * (1 - share) / n + Z95 * Z95 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
