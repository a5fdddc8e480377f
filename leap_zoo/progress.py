"""A progress bar on stderr, for people only: nothing when stderr is no terminal or there is one photo."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_WIDTH = 30
_SECONDS_BETWEEN = 0.1


class Progress:
    """`with Progress(total) as progress:` and `progress.step()` per item; `clear()` before other output to stderr."""

    def __init__(self, total: int, *, shown: bool = True, stream: TextIO | None = None) -> None:
        self.total = total
        self.done = 0
        self._stream = sys.stderr if stream is None else stream
        self._shown = shown and total > 1 and self._stream.isatty()
        self._drawn = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def step(self) -> None:
        """One more item is done."""
        self.done += 1
        now = time.monotonic()
        if self._shown and (now - self._drawn >= _SECONDS_BETWEEN or self.done == self.total):
            self._drawn = now
            filled = _WIDTH * self.done // self.total
            bar = "#" * filled + "." * (_WIDTH - filled)
            print(f"\r[{bar}] {self.done}/{self.total}", end="", file=self._stream, flush=True)

    def clear(self) -> None:
        """Wipe the bar; the next step draws it again."""
        if self._shown:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
            self._drawn = 0.0
