"""The process that starts the workers: how soon it notices that one died, and that none outlives it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

CHECK_SECONDS = 1.0
"""How often the supervisor looks whether its worker lives; BentoML sets 10, so a killed one was missed for so long."""

FOLLOW_SECONDS = 0.5
"""How often a worker looks whether its supervisor lives."""

_log = logging.getLogger("leap_zoo.serve")


def check_often() -> None:
    """In the supervisor, before it makes its controller: look after the workers every CHECK_SECONDS.

    BentoML gives its supervisor's library a number that no setting of it reaches.
    """
    from circus.controller import Controller

    start = Controller.start

    def start_checking_often(self: Controller) -> None:
        self.check_delay = min(self.check_delay, CHECK_SECONDS * 1000)  # milliseconds
        start(self)

    Controller.start = start_checking_often


def follow(supervisor: int | None = None) -> None:
    """In a worker's event loop: stop as if told to once the parent process, `supervisor`, is gone.

    A worker that outlived it would hold the port, and no server could be started there.
    """
    parent = os.getppid() if supervisor is None else supervisor
    if os.getppid() != parent:
        _log.warning("The supervisor is gone, and its worker stops.")
        signal.raise_signal(signal.SIGTERM)
        return
    asyncio.get_running_loop().call_later(FOLLOW_SECONDS, follow, parent)
