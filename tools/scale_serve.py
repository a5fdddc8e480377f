"""`python -m tools.scale_serve`: two replicas behind nginx, as docs/deploy/nginx-replicas.conf has them; one is killed.

Needs nginx. Clients post photos all the while; every answer that is not 200, and every call that fails, is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from PIL import Image

from tools.scale_results import HERE, figure, write
from tools.server_process import ROOT, ServerProcess, free_port, server_process

CONFIG = ROOT / "docs" / "deploy" / "nginx-replicas.conf"
CLIENTS = 4


def nginx_program() -> str | None:
    """Where nginx is; None: nowhere."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


@contextlib.contextmanager
def replicas(**variables: str) -> Iterator[tuple[str, list[ServerProcess]]]:
    """The address of nginx, and the two servers behind it."""
    program = nginx_program()
    assert program is not None
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server_process(**variables)) for _ in range(2)]
        folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        ours = CONFIG.read_text().replace("listen 80;", f"listen 127.0.0.1:{port};")
        for number, server in enumerate(servers):
            ours = ours.replace(f":300{number} ", f":{server.port} ")
        kept = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/errors; worker_processes 1; events {{}}\n"
            f"http {{ access_log off; {kept}\n{ours} }}"
        )
        process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", servers
        finally:
            process.terminate()
            process.wait()


def kill(server: ServerProcess) -> None:
    """The whole replica, at once."""
    family = [*psutil.Process(server.process.pid).children(recursive=True), psutil.Process(server.process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)


@dataclass
class Load:
    """Clients that post one photo after the other. answers: how often each status came, before and after `mark`."""

    url: str
    path: str
    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        photo = io.BytesIO()
        Image.effect_noise((320, 240), 60).convert("RGB").save(photo, "JPEG")
        self._threads = [threading.Thread(target=self._post, args=[photo.getvalue()]) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, more: int, seconds: float = 300) -> None:
        """Until as many more answers came."""
        until, before = time.monotonic() + seconds, self.answers.total()
        while self.answers.total() < before + more:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.answers.total() - before} answers in {seconds} s: {dict(self.answers)}")
            time.sleep(0.02)

    def _post(self, photo: bytes) -> None:
        with httpx.Client(base_url=self.url, timeout=120) as client:
            while not self._stop.is_set():
                start = time.monotonic()
                try:
                    said = str(
                        client.post(self.path, content=photo, headers={"content-type": "image/jpeg"}).status_code
                    )
                except httpx.HTTPError as error:
                    said = type(error).__name__
                self.answers[said] += 1
                self.slowest = max(self.slowest, time.monotonic() - start)


def main() -> None:
    """Write `results/scale/serving.csv`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400, help="before and after the kill")
    parser.add_argument("--note", default="", help="about the machine, e.g. busy")
    options = parser.parse_args()
    if nginx_program() is None:
        parser.error("nginx is not installed: apt-get install nginx-light")
    rows = []
    with replicas() as (url, servers), Load(url, "/v1/classify?head=imagenet1k") as load:
        start = time.monotonic()
        load.wait(options.requests)
        before = options.requests / (time.monotonic() - start)
        kill(servers[1])
        start = time.monotonic()
        load.wait(options.requests)
        after = options.requests / (time.monotonic() - start)
    about = f"{CLIENTS} clients, POST /v1/classify, one of 2 replicas killed"
    failed = load.answers.total() - load.answers["200"]
    for metric, value in {
        "requests": load.answers.total(),
        "failed requests": failed,
        "requests per second before": before,
        "requests per second after": after,
        "seconds of the slowest answer": load.slowest,
    }.items():
        rows.append(figure("2 replicas behind nginx", metric, value, about, options.note))
    write(HERE / "serving.csv", rows)


if __name__ == "__main__":
    main()
