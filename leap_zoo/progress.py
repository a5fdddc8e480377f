"""A progress bar on stderr. It is not drawn if stderr is not a terminal or there is only one item."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 30
_SECONDS_BETWEEN = 0.1


class Progress:
    """A context manager: call `progress.step()` for each item. The bar is erased at the end.

    scale, unit: how to show counts, e.g. 1e6 and "MB" if items are bytes.
    """

    def __init__(
        self, total: int, *, shown: bool = True, stream: TextIO | None = None, scale: float = 1, unit: str = ""
    ) -> None:
        self.total = total
        self.done = 0
        self._stream = sys.stderr if stream is None else stream
        self._shown = shown and total > 1 and self._stream is not None and self._stream.isatty()
        self._drawn = 0.0
        self._scale = scale
        self._unit = unit

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def step(self, count: int = 1) -> None:
        """Record `count` finished items; a negative count if finished work was lost."""
        self.done += count
        now = time.monotonic()
        if self._shown and (now - self._drawn >= _SECONDS_BETWEEN or self.done == self.total):
            self._drawn = now
            filled = _WIDTH * self.done // self.total
            bar = "#" * filled + "." * (_WIDTH - filled)
            done, total = self.done / self._scale, self.total / self._scale
            counted = f"{done:.1f}/{total:.1f} {self._unit}" if self._unit else f"{self.done}/{self.total}"
            print(f"\r[{bar}] {counted}", end="\x1b[K" if self._unit else "", file=self._stream, flush=True)
