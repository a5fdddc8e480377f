"""A metric of a card as people read it."""

from __future__ import annotations

from leap_zoo.card import Metric


def value(metric: Metric) -> str:
    """Shares as per cent, cosines as they are."""
    return _show(metric, metric.value)


def interval(metric: Metric) -> str:
    """The 95 % interval, or nothing."""
    return " to ".join(_show(metric, end) for end in metric.interval) if metric.interval else ""


def cell(metric: Metric | None) -> str:
    """The value, and its interval in brackets; nothing for None."""
    if metric is None:
        return ""
    return value(metric) + (f" ({interval(metric)})" if metric.interval else "")


def _show(metric: Metric, number: float) -> str:
    return f"{number:.4f}" if "cosine" in metric.name else f"{number:.2%}".replace("%", " %")
