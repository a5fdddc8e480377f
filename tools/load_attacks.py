"""Cheap and silent clients beside a well-behaved one, and two workers beside one: what becomes of the rate?

Attackers run in a process of their own, on the same cores as the server. One that is cut off comes again.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from PIL import Image

from tools.http_load import Connection, Load, closed_loop, http_request, photo_request
from tools.server_process import ServerProcess, server_process

GALLERY, ITEMS, PART = "attacked", 100_000, 10_000
MEBI = 2**20
HELD_SECONDS = 5.0  # until an attacker that does not read, or does not end, starts again
CLIENTS = 32
_SPAWN = multiprocessing.get_context("spawn")  # no copy of this process's threads


def never_read(port: int, photo: bytes) -> None:
    """64 clients ask twice for a page of a gallery's items, and read nothing."""
    _hold(port, http_request("GET", f"/v1/galleries/{GALLERY}/items?limit=1000") * 2, 64)


def unknown_keys(port: int, photo: bytes) -> None:
    """8 clients search for items whose metadata have 8 keys that none has; every other request names 400."""
    searches = []
    for number in (8, 400):
        where = quote(json.dumps({f"k{at}": 1 for at in range(number)}, separators=(",", ":")))
        searches.append(photo_request(f"/v1/galleries/{GALLERY}/search?where={where}", photo))
    _ask(port, searches, 8)


def many_pixels(port: int, photo: bytes) -> None:
    """3 clients send five PNGs of 25 megapixels in each request, which have few bytes."""
    file = io.BytesIO()
    Image.new("L", (5000, 4999)).save(file, "PNG")
    body = json.dumps({"images": [base64.b64encode(file.getvalue()).decode()] * 5}).encode()
    _ask(port, [http_request("POST", "/v1/embed", body, "application/json")], 3)


def other_models(port: int, photo: bytes) -> None:
    """64 clients ask in turn for four model files that are not loaded."""
    files = [(model, kind) for model in ("leap-nano", "leap-micro") for kind in ("int8", "fp32")]
    _ask(port, [photo_request(f"/v1/embed?model={model}&precision={kind}", photo) for model, kind in files], 64)


def never_end(port: int, photo: bytes) -> None:
    """40 clients send 18 MiB of a body of 19."""
    whole = http_request("POST", "/v1/embed", bytes(19 * MEBI), "image/jpeg")
    _hold(port, whole[:-MEBI], 40)


ATTACKS: list[Callable[[int, bytes], None]] = [never_read, unknown_keys, many_pixels, other_models, never_end]


def attacks(photo: bytes, seconds: float, step: Callable[[], object]) -> dict[str, Any]:
    """One client of `/v1/embed` without and beside each attack, on one server; `seconds` of each."""
    request = photo_request("/v1/embed", photo)
    found: dict[str, Any] = {}
    with server_process() as server:
        _fill(server.port)
        closed_loop(server.port, [request], 1, 2)
        for attack in ATTACKS:
            alone = closed_loop(server.port, [request], 1, seconds)
            attacker = _SPAWN.Process(target=attack, args=(server.port, photo), daemon=True)
            attacker.start()
            with _peak_memory(server) as memory:
                time.sleep(2)  # until it has begun
                beside = closed_loop(server.port, [request], 1, seconds)
            attacker.kill()
            attacker.join()
            time.sleep(1)
            rates = [load.statuses[200] / seconds for load in (alone, beside)]
            found[attack.__name__] = {
                "what": (attack.__doc__ or "").rstrip("."),
                "alone_per_second": round(rates[0], 1),
                "beside_per_second": round(rates[1], 1),
                "kept": round(rates[1] / rates[0], 3),
                "p99_ms": round(1000 * float(np.quantile(beside.latencies, 0.99)), 1),
                "other_statuses": {str(code): n for code, n in beside.statuses.items() if code != 200},
                "most_memory_mb": max(memory),
            }
            step()
    return {"attacks": found, "seconds": seconds}


def workers(photo: bytes, seconds: float, rounds: int, step: Callable[[], object]) -> dict[str, Any]:
    """CLIENTS of `/v1/embed`, in turns: one worker with one thread, one with all, and two workers that share them."""
    request = photo_request("/v1/embed", photo)
    kinds = {
        "one_thread": {"LEAP_ZOO_SERVE_WORKERS": "1", "LEAP_ZOO_THREADS": "1"},
        "one_worker": {"LEAP_ZOO_SERVE_WORKERS": "1"},
        "two_workers": {"LEAP_ZOO_SERVE_WORKERS": "2"},
    }
    loads: dict[str, list[Load]] = {name: [] for name in kinds}
    with contextlib.ExitStack() as stack:
        ports = {}
        for name, variables in kinds.items():
            data = stack.enter_context(tempfile.TemporaryDirectory(prefix="leap-zoo-data-"))
            server = stack.enter_context(server_process(LEAP_ZOO_SERVE_UI="off", LEAP_ZOO_SERVE_DATA=data, **variables))
            _wait_for_workers(server, int(variables["LEAP_ZOO_SERVE_WORKERS"]), request)
            ports[name] = server.port
        for _ in range(rounds):
            for name, port in ports.items():
                loads[name].append(closed_loop(port, [request], CLIENTS, seconds))
            step()
    rates = {name: [load.statuses[200] / seconds for load in each] for name, each in loads.items()}
    return {
        "clients": CLIENTS,
        "seconds": seconds,
        "rounds": rounds,
        "per_second": {name: _spread(each) for name, each in rates.items()},
        "of_one_thread": _spread(_ratios(rates["two_workers"], rates["one_thread"])),
        "of_one_worker": _spread(_ratios(rates["two_workers"], rates["one_worker"])),
    }


def _fill(port: int) -> None:
    """Make the gallery of ITEMS items that attackers ask for."""
    rows = np.random.default_rng(0)
    gallery = f"http://127.0.0.1:{port}/v1/galleries/{GALLERY}"
    with httpx.Client(timeout=120) as http:
        about = http.put(gallery).raise_for_status().json()
        for start in range(0, ITEMS, PART):
            vectors = rows.standard_normal((PART, about["dim"]), np.float32).astype("<f4")
            body = {name: about[name] for name in ("model", "revision", "space")} | {
                "ids": [f"item-{start + at}" for at in range(PART)],
                "vectors": [base64.b64encode(row.tobytes()).decode() for row in vectors],
                "metadata": [{"label": f"label {at % 50}", "text": "x" * 300} for at in range(PART)],
            }
            http.post(f"{gallery}/vectors", json=body).raise_for_status()


def _hold(port: int, data: bytes, clients: int) -> None:
    """Connections that send and then stay silent, for ever."""

    def run(_: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=HELD_SECONDS) as one:
            one.sendall(data)
            time.sleep(HELD_SECONDS)

    _again_and_again(run, clients)


def _ask(port: int, requests: Sequence[bytes], clients: int) -> None:
    """Clients that send the requests in turn, each the next one when it has its answer, for ever."""

    def run(number: int) -> None:
        connection = Connection(port)
        with connection.socket:
            for at in itertools.count(number):
                connection.ask(requests[at % len(requests)])

    _again_and_again(run, clients)


def _again_and_again(run: Callable[[int], None], clients: int) -> None:
    def forever(number: int) -> None:
        while True:
            with contextlib.suppress(OSError):  # cut off
                run(number)
            time.sleep(0.05)

    threads = [threading.Thread(target=forever, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def _peak_memory(server: ServerProcess) -> Iterator[list[float]]:
    """Resident megabytes of all workers, several times a second."""
    seen: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            seen.append(round(sum(worker.memory_info().rss for worker in server.workers()) / 1e6, 1))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def _wait_for_workers(server: ServerProcess, number: int, request: bytes) -> None:
    """Return once so many processes answer."""
    busy = 0
    while busy < number:
        before = {worker.pid: sum(worker.cpu_times()[:2]) for worker in server.workers()}
        load = closed_loop(server.port, [request], CLIENTS, 2)
        spent = [sum(worker.cpu_times()[:2]) - before.get(worker.pid, 0) for worker in server.workers()]
        busy = sum(seconds > 0.2 for seconds in spent) if load.statuses[200] else 0


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(above, below, strict=True)]


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of the rounds."""
    ends = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in ends.items()}
