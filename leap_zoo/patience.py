"""How long a download waits, how often it retries, and when a server counts as too slow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Patience:
    """Limits in seconds and bytes. Every `window` must bring `least` bytes; a smaller file may take one `window`.

    A server that sends nothing for `give_up` seconds is given up. attempts: retries without progress. The wait doubles
    each time, is randomized between half and all of that, and never exceeds `longest`, even if the server's
    Retry-After asks for more.
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
    """A failure that is worth retrying. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Pace:
    """Detects a server that trickles bytes, which a timeout between two bytes never catches."""

    def __init__(self, patience: Patience) -> None:
        self._window, self._least = patience.window, patience.least
        self._since = time.monotonic()
        self._count = 0

    def came(self, count: int) -> None:
        """Record `count` received bytes. Raises Again if the rate is too low."""
        self._count += count
        now = time.monotonic()
        if now - self._since >= self._window:
            if self._count < self._least:
                raise Again(f"only {self._count} bytes in {now - self._since:.0f} s")
            self._since, self._count = now, 0


def retry_after(value: str | None) -> float | None:
    """Seconds in a Retry-After header, given as a number or a date; None for anything else."""
    if value is None or len(value) > 64:
        return None
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
