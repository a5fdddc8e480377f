"""How long a download waits, how often it tries again, and when a server is too slow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Patience:
    """Seconds and numbers. `least` bytes must come in every `window`, which is also how long a smaller file may take.

    A server from which no byte came for `give_up` is given up. attempts: tries without getting further; each waits
    twice as long as the one before, between half and all of that, and never more than `longest`, even where the
    server's Retry-After says more.
    """

    connect: float = 10
    silence: float = 15
    give_up: float = 30
    window: float = 30
    least: int = 10_000
    attempts: int = 5
    back_off: float = 1
    longest: float = 60


class Again(Exception):
    """What failed may work another time. `after`: seconds that the server asks for."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Pace:
    """Notices a server that sends a byte now and then, which no timeout between two bytes ever ends."""

    def __init__(self, patience: Patience) -> None:
        self._window, self._least = patience.window, patience.least
        self._since = time.monotonic()
        self._count = 0

    def came(self, count: int) -> None:
        """That many bytes came. Raises Again when they are too few for the time."""
        self._count += count
        now = time.monotonic()
        if now - self._since >= self._window:
            if self._count < self._least:
                raise Again(f"only {self._count} bytes in {now - self._since:.0f} s")
            self._since, self._count = now, 0


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date; None for anything else."""
    if value is None or len(value) > 64:
        return None
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
