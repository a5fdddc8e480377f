"""`python -m tools.bench_serve` (`make bench-serve`): what serving adds to the engine, and the tail of its latencies.

Starts `bentoml serve` on a free port of the loopback and takes turns, a few seconds each, so that whatever else the
machine does meets all of them alike:

- engine: decode + inference of the same 224x224 JPEGs in this process, a thread per core (`leap_zoo.Model.embed`);
- served: `POST /v1/embed` by 32 clients, photos as raw bodies;
- plain: the same model as a plain BentoML service (tools/plain_bento.py), 32 clients;
- one client: the service and the model by turns of a few requests;
- half load: requests at random moments, half as many per second as were served to 32 clients.

The clients run on the same cores as the server, and their cost counts against it. Writes results/serving/bench.json and
the table of docs/serving.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import leap_zoo
from leap_zoo.device import available_threads
from leap_zoo.progress import Progress
from tools.http_load import SIDE, Connection, Load, closed_loop, open_loop, photo_request, small_jpeg
from tools.provenance import provenance
from tools.server_process import ROOT, server_process

RESULT = ROOT / "results" / "serving" / "bench.json"
PHOTOS = ROOT / "serve" / "demo" / "samples"
CLIENTS = 32
TURN = 30  # requests in a turn of the one client

Times = list[float]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench_serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each turn; default 5")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each; default 6")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="a folder; default: the demo's samples")
    parser.add_argument("--out", type=Path, default=RESULT, help="default: results/serving/bench.json")
    options = parser.parse_args()
    photos = jpegs(options.photos)
    about = provenance()
    found = about | measure(photos, options.seconds, options.rounds)
    found["photos"] = f"{len(photos)} photos of the folder {options.photos.name}, {SIDE}x{SIDE} JPEG, quality 90"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0


def jpegs(folder: Path) -> list[bytes]:
    """Up to 32 photos of a folder as 224x224 JPEGs."""
    paths = sorted(folder.rglob("*.[jJ][pP]*[gG]"))[:32]
    if not paths:
        raise SystemExit(f"tools.bench_serve: there is no JPEG below {folder}: give --photos another folder")
    return [small_jpeg(path) for path in paths]


def measure(photos: Sequence[bytes], seconds: float, rounds: int) -> dict[str, Any]:
    """All measurements, in turns."""
    threads = available_threads()
    model = leap_zoo.load(threads=1)
    requests = [photo_request("/v1/embed", photo) for photo in photos]
    forms = [photo_request("/embed", photo, multipart=True) for photo in photos]
    engine: Times = []
    served: list[Load] = []
    plain: list[Load] = []
    half: list[Load] = []
    alone: dict[str, Times] = {"served": [], "model": []}
    with (
        server_process() as ours,
        server_process("tools.plain_bento:Plain") as theirs,
        Progress(rounds) as bar,
    ):
        for port, warm in ((ours.port, requests), (theirs.port, forms)):
            closed_loop(port, warm, CLIENTS, 2)
        for number in range(rounds):
            engine.append(in_process(model, photos, threads, seconds))
            served.append(closed_loop(ours.port, requests, CLIENTS, seconds))
            plain.append(closed_loop(theirs.port, forms, CLIENTS, seconds))
            one_client(ours.port, requests, model, photos, seconds, alone)
            rate = statistics.median(load.per_second for load in served) / 2
            half.append(open_loop(ours.port, requests, rate, seconds, seed=number))
            bar.step()
    refuse_failures(ours_loads := [*served, *half], plain)
    ratios = [load.per_second / rate for load, rate in zip(served, engine, strict=True)]
    faster = [ours_.per_second / theirs_.per_second for ours_, theirs_ in zip(served, plain, strict=True)]
    single = 1000 * statistics.median(alone["served"])
    tails = [1000 * float(np.quantile(load.latencies, 0.99)) / single for load in half]
    return {
        "model": f"{model.card.id} {model.artifact.precision}",
        "clients": CLIENTS,
        "engine_per_second": spread(engine),
        "served_per_second": spread([load.per_second for load in served]),
        "plain_bentoml_per_second": spread([load.per_second for load in plain]),
        "served_of_engine": spread(ratios),
        "times_plain_bentoml": spread(faster),
        "served_p50_ms": milliseconds(served, 0.5),
        "served_p99_ms": milliseconds(served, 0.99),
        "one_client_served_ms": quantiles(alone["served"]),
        "one_client_model_ms": quantiles(alone["model"]),
        "one_client_overhead_ms": round(1000 * overhead(alone), 3),
        "half_load_per_second": spread([load.per_second for load in half]),
        "half_load_p50_ms": milliseconds(half, 0.5),
        "half_load_p99_ms": milliseconds(half, 0.99),
        "half_load_p99_of_single": spread(tails),
        "requests": sum(len(load.latencies) for load in ours_loads) + len(alone["served"]),
        "seconds": seconds,
        "rounds": rounds,
        "cores": threads,
    }


def in_process(model: leap_zoo.Model, photos: Sequence[bytes], threads: int, seconds: float) -> float:
    """Photos per second of `threads` threads that do nothing but decode and run."""
    started = time.perf_counter()

    def work(first: int) -> int:
        done = 0
        while time.perf_counter() - started < seconds:
            model.embed(photos[(first + done) % len(photos)])
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (time.perf_counter() - started)


def one_client(
    port: int,
    requests: Sequence[bytes],
    model: leap_zoo.Model,
    photos: Sequence[bytes],
    seconds: float,
    times: dict[str, Times],
) -> None:
    """By turns the service and the model, one request at a time; adds to `times` seconds per request."""

    def served(number: int) -> None:
        if connection.ask(requests[number % len(requests)]) != 200:
            raise SystemExit("tools.bench_serve: not only 200 was answered")

    def alone(number: int) -> None:
        model.embed(photos[number % len(photos)])

    connection = Connection(port)
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for name, call in (("served", served), ("model", alone)):
            call(0)  # the caches are the other's
            for number in range(TURN):
                started = time.perf_counter()
                call(number)
                times[name].append(time.perf_counter() - started)


def overhead(times: dict[str, Times]) -> float:
    """Median seconds that the service takes longer than the model, turn by turn."""
    turns = [
        [statistics.median(times[kind][start : start + TURN]) for start in range(0, len(times[kind]), TURN)]
        for kind in ("served", "model")
    ]
    return statistics.median(ours - alone for ours, alone in zip(*turns, strict=True))


def refuse_failures(*groups: list[Load]) -> None:
    """Nothing but 200 may be in a measurement."""
    for load in [one for group in groups for one in group]:
        if set(load.statuses) != {200}:
            raise SystemExit(f"tools.bench_serve: not only 200 was answered: {dict(load.statuses)}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of the rounds."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def milliseconds(loads: Sequence[Load], quantile: float) -> dict[str, float]:
    """The spread of a quantile of the latencies over the rounds."""
    return spread([1000 * float(np.quantile(load.latencies, quantile)) for load in loads])


def quantiles(seconds: Times) -> dict[str, float]:
    """Quantiles in milliseconds, and how many there were."""
    found = np.quantile(seconds, [0.05, 0.5, 0.95, 0.99]) * 1000
    return {name: round(float(ms), 3) for name, ms in zip(("p5", "p50", "p95", "p99"), found, strict=True)} | {
        "n": len(seconds)
    }


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
