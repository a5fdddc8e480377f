"""A real `bentoml serve` process, as a user starts it, in a Python where torch and the training rooms do not exist."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("bentoml", reason="needs the extra: pip install leap-zoo[serve]")

import httpx
import psutil

import leap_zoo
from tools import weigh
from tools.server_process import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
READY_SECONDS = 200  # a few on an idle machine; a training in the background takes most of this one
PATIENT = {"LEAP_ZOO_SERVE_TIMEOUT": "120", "LEAP_ZOO_SERVE_SLOW_TIMEOUT": "240"}  # a slow machine is no failure
DEMO = {"LEAP_ZOO_SERVE_UI": "on"}  # for servers whose page is tested: Gradio takes seconds to import

ABSENT = """
import sys

NAMES = {"torch", "torchvision", "timm", "lightning", "nncf", "openvino", "train", "export"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@dataclass
class Server:
    """A running server: its address, its process, and the file of what it said."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    home: str  # BENTOML_HOME

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def terminate(self, seconds: float) -> None:
        """Send SIGTERM to the supervisor, as a container does. Raises TimeoutExpired when it does not end in time."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(seconds)


@pytest.fixture(scope="session")
def torchless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in whose Pythons torch, its friends, `train` and `export` cannot be imported."""
    folder = tmp_path_factory.mktemp("absent")
    (folder / "sitecustomize.py").write_text(ABSENT)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEAP_ZOO_", "BENTOML_"))}
    return kept | {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="session")
def start(
    torchless: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """`start(LEAP_ZOO_URL=...)` starts a server with these variables, by default without the demo; leaving the context
    ends it.
    """

    @contextlib.contextmanager
    def run(*, wait: bool = True, port: int | None = None, **variables: str) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("server")
        # Two servers that share a BENTOML_HOME wipe each other's metrics.
        own = {"BENTOML_HOME": str(folder / "bentoml"), "TMPDIR": str(folder), "LEAP_ZOO_SERVE_UI": "off"}
        env = torchless | PATIENT | own | variables
        port = port or free_port()
        command = [sys.executable, "-m", "bentoml", "serve", "--port", str(port)]
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            server = Server(port, process, log, env["BENTOML_HOME"])
            if wait:
                wait_until_ready(server)
            yield server
        finally:
            end(process)

    return run


@pytest.fixture(scope="session")
def server(start: Callable[..., contextlib.AbstractContextManager[Server]], tiny_zoo: Path) -> Iterator[Server]:
    """One server with the tiny model for all tests that leave it running."""
    with start(LEAP_ZOO_URL=str(tiny_zoo), LEAP_ZOO_SERVE_MODEL=leap_zoo.models(tiny_zoo)[0].id, **DEMO) as server:
        yield server


@pytest.fixture(scope="session")
def browser_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which `bundled_server` hands out onnxruntime-web: empty until a test fetches it."""
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture(scope="session")
def bundled_server(
    start: Callable[..., contextlib.AbstractContextManager[Server]], browser_runtime: Path
) -> Iterator[Server]:
    """One server that was told of no model: it serves the bundled student, for all tests that leave it running.

    Pages of any site may call it.
    """
    with start(LEAP_ZOO_SERVE_BROWSER_RUNTIME=str(browser_runtime), LEAP_ZOO_SERVE_CORS="*", **DEMO) as server:
        yield server


@pytest.fixture(scope="session")
def key() -> str:
    """The key that `keyed_server` asks for."""
    return "a-key-of-the-documentation"


@pytest.fixture(scope="session")
def keys_file(key: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with alice's key, hashed. `keyed_server` reads it again when it changes."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"alice:{hashlib.sha256(key.encode()).hexdigest()}\n")
    return file


@pytest.fixture(scope="session")
def keyed_server(start: Callable[..., contextlib.AbstractContextManager[Server]], keys_file: Path) -> Iterator[Server]:
    """A server with the bundled student that asks for a key and takes little: bodies of 1 MiB, 5 photos a request."""
    little = {"LEAP_ZOO_SERVE_MAX_BODY_MB": "1", "LEAP_ZOO_SERVE_MAX_PHOTOS": "5"}
    with start(LEAP_ZOO_SERVE_KEYS_FILE=str(keys_file), **little) as server:
        yield server


@pytest.fixture(scope="session")
def proxied_server(start: Callable[..., contextlib.AbstractContextManager[Server]], tiny_zoo: Path) -> Iterator[Server]:
    """A server that knows of the proxy before it."""
    name = leap_zoo.models(tiny_zoo)[0].id
    with start(
        LEAP_ZOO_URL=str(tiny_zoo), LEAP_ZOO_SERVE_MODEL=name, LEAP_ZOO_SERVE_ROOT_PATH="/leap", **DEMO
    ) as server:
        yield server


@pytest.fixture(scope="session")
def proxied(proxied_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the same server behind nginx, as docs/deploy/nginx.conf has it."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    ours = (ROOT / "docs/deploy/nginx.conf").read_text().replace(":3000/", f":{proxied_server.port}/")
    kept = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; worker_processes 1; events {{}}"
        f"http {{ access_log off; {kept} server {{ listen 127.0.0.1:{port};\n{ours} "
        "location = /favicon.ico { return 204; } } }"  # the icon of the rest of the site
    )
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/leap"
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def edge_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that has nothing but the edge package. Read only."""
    try:
        return weigh.install(tmp_path_factory.mktemp("edge"))
    except weigh.Unreachable as error:
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; for modules that import `browsing`, which skips them where there is none."""
    from browsing import CHROMIUM, FLAGS, playwright

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the supervisor and its workers: each worker leads a group of its own, and would outlive the supervisor."""
    if process.poll() is None:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while any(map(runs, family[1:])) and time.monotonic() < deadline:
            time.sleep(0.01)
    process.wait()


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended. Who adopts a process whose parent has ended may take seconds to note its end, too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_until_ready(server: Server) -> None:
    """Return once /readyz answers 200; fail with the log when it does not in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(server.url + "/readyz", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"the server did not get ready:\n{server.log.read_text()[-4000:]}")
