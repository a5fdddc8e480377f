"""How a training spends its time: in steps, or waiting for photos. Pauses between epochs do not count."""

from __future__ import annotations

import time


class Clock:
    """Seconds that steps take: wall-clock time, this process's CPU time, and time spent waiting for batches."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = self.wait_seconds = 0.0
        self._since: tuple[float, float] | None = None  # wall and CPU clock when the last span was taken
        self._waited = self._step = 0.0  # seconds: for the newest batch; of the last whole step, with its wait

    @property
    def wait_share(self) -> float:
        """The share of `seconds` spent waiting for data, 0..1."""
        return self.wait_seconds / self.seconds if self.seconds else 0.0

    def start(self) -> None:
        """Begin to count; call at the start of each epoch."""
        self._since = time.perf_counter(), time.process_time()

    def batch_arrived(self) -> None:
        """The photos of the next step have arrived."""
        self._waited = self._take()
        self.wait_seconds += self._waited

    def step_ended(self) -> None:
        """The step is done, optimizer included."""
        self._step = self._waited + self._take()

    def rate(self, images: int) -> float | None:
        """Images per second of the last whole step; None before there was one."""
        return images / self._step if self._step else None

    def _take(self) -> float:
        now = time.perf_counter(), time.process_time()
        wall, cpu = self._since or now
        self._since = now
        self.seconds += now[0] - wall
        self.cpu_seconds += now[1] - cpu
        return now[0] - wall

    def state_dict(self) -> dict[str, float]:
        """The three sums."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Count on from `state_dict()`."""
        vars(self).update(state)
