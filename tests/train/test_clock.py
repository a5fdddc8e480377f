"""Waiting and working told apart, by clocks that the test moves."""

from __future__ import annotations

import time

import pytest

from train.clock import Clock


class Time:
    """A wall clock and a CPU clock that stand still until they are moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.cpu = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(time, "process_time", lambda: self.cpu)

    def passes(self, wall: float, cpu: float = 0.0) -> None:
        """Move both."""
        self.wall += wall
        self.cpu += cpu


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clocks of this test."""
    return Time(monkeypatch)


def step(clock: Clock, now: Time, wait: float, work: float) -> None:
    """One step: the loader takes `wait` s, the step `work` s on two busy cores."""
    now.passes(wait)
    clock.batch_arrived()
    now.passes(work, 2 * work)
    clock.step_ended()


def test_clock__of_a_slow_loader_says_how_much_was_waiting(now: Time) -> None:
    clock = Clock()
    assert clock.rate(64) is None
    clock.start()
    step(clock, now, wait=3.0, work=1.0)
    step(clock, now, wait=0.0, work=4.0)
    assert (clock.seconds, clock.wait_seconds, clock.cpu_seconds) == pytest.approx((8.0, 3.0, 10.0))
    assert clock.wait_share == pytest.approx(3 / 8)
    assert clock.rate(64) == pytest.approx(16)  # of the last step, its wait included


def test_clock__leaves_out_the_pause_between_epochs(now: Time) -> None:
    clock = Clock()
    clock.start()
    step(clock, now, wait=0.5, work=1.5)
    now.passes(1000.0, 1000.0)  # a checkpoint, an evaluation
    clock.start()
    step(clock, now, wait=0.5, work=1.5)
    assert clock.seconds == pytest.approx(4.0)
    assert clock.wait_share == pytest.approx(1 / 4)


def test_clock__counts_on_after_a_resumption(now: Time) -> None:
    clock, resumed = Clock(), Clock()
    clock.start()
    step(clock, now, wait=1.0, work=1.0)
    resumed.load_state_dict(clock.state_dict())
    resumed.start()
    step(resumed, now, wait=0.0, work=2.0)
    assert (resumed.seconds, resumed.wait_share) == pytest.approx((4.0, 1 / 4))
