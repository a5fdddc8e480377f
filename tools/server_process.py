"""A separate `bentoml serve` process for a measurement: free port, own folder, none of this project's settings."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
READY_SECONDS = 300  # a few on an idle machine


class NotReady(Exception):
    """The server ended, or did not get ready in time; the message has the end of its log."""


@dataclass(frozen=True)
class ServerProcess:
    """A server that is ready on a port of the loopback."""

    port: int
    process: subprocess.Popen[bytes]

    def workers(self) -> list[psutil.Process]:
        """The processes below the supervisor, the largest first."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return sorted(family, key=lambda process: process.memory_info().rss, reverse=True)


@contextlib.contextmanager
def server_process(service: str | None = None, **variables: str) -> Iterator[ServerProcess]:
    """Serve `service` (default: what bentofile.yaml names) with these environment variables; SIGTERM at the end.

    Raises NotReady.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEAP_ZOO_", "BENTOML_"))}
    with tempfile.TemporaryDirectory(prefix="leap-zoo-serve-") as folder:
        port = free_port()
        # Two servers that share a BENTOML_HOME wipe each other's metrics.
        env = kept | {"BENTOML_HOME": f"{folder}/bentoml", "BENTOML_DO_NOT_TRACK": "True", "TMPDIR": folder} | variables
        command = [sys.executable, "-m", "bentoml", "serve", *([service] if service else []), "--port", str(port)]
        log = Path(folder, "log")
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait_until_ready(process, port, log)
            yield ServerProcess(port, process)
        finally:
            _end(process)


def free_port() -> int:
    """A port of the loopback that nobody listens on.

    It is below those that the system hands out: BentoML's supervisor asks for some of these before the server listens.
    """
    while True:
        port = random.randint(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import httpx

    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    raise NotReady(f"the server did not get ready:\n{log.read_text(errors='replace')[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        for member in family:  # each worker leads a group of its own, and would outlive the supervisor
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()
