"""`python -m tools.scale_embed PHOTOS`: what Ray adds to embedding, and what a second worker gives.

Each run is a process of its own, held to as many cores as it has workers; Ray's own processes share these cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from leap_zoo import load
from leap_zoo.embeddings import embed_found
from leap_zoo.folders import find_photos
from leap_zoo.ray import embed_photos
from leap_zoo.shards import part_name
from tools.scale_results import HERE, figure, read, write

RUNS = {"the loop of one process": -1, "shards, without Ray": 0, "Ray, 1 worker": 1, "Ray, 2 workers": 2}
PIECES = 24
GROWTH = "Ray, 2 workers"  # of the runs with more and more photos


def one_run(photos: list[str], workers: int) -> dict[str, float]:
    """Seconds in all, and photos per second between the first part and the last."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray reads it in this spelling
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: max(workers, 1)])
    start = time.monotonic()
    if workers < 0:
        model = load(threads=1)
        found = find_photos(*photos)
        ready = time.monotonic()
        done = embed_found(model, found, "student", found.photos)
        assert not done.bad
        now = time.monotonic()
        return {"seconds": now - start, "rate": len(photos) / (now - ready)}
    with tempfile.TemporaryDirectory() as out:
        rows = max(1, len(photos) // PIECES)
        report = embed_photos(photos, out, workers=workers, rows=rows)
        end = time.monotonic()
        assert (report.photos, report.bad, report.failed) == (len(photos), 0, {})
        times = sorted(Path(out, part_name(number)).stat().st_mtime for number in range(report.parts))
    # The first piece of each worker warms it up.
    steady = times[max(workers, 1) - 1 :]
    assert all(before <= after for before, after in pairwise(steady))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # of the driver; workers hold one batch each
    return {
        "seconds": end - start,
        "rate": rows * (len(steady) - 1) / (steady[-1] - steady[0]),
        "megabytes": megabytes,
    }


def main() -> None:
    """Take turns, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--most", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=3, help="0: keep these figures, and measure --growth alone")
    parser.add_argument("--note", default="", help="about the machine, e.g. busy")
    parser.add_argument("--growth", type=Path, metavar="FOLDER", help="time 1,000, 10,000, ... photos of this one, too")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    found = find_photos(options.photos).photos
    step = max(1, len(found) // options.most)
    chosen = found[::step][: options.most // PIECES * PIECES]
    if options.run is not None:
        print(json.dumps(one_run(chosen, options.run)))
        return
    said: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for _ in range(options.rounds):
        for name, workers in RUNS.items():
            said[name].append(_in_a_process(options.photos, options.most, workers))
            print(name, said[name][-1], flush=True)
    if not options.rounds:
        rows = [row for row in read(HERE / "embedding.csv") if not row["subject"].startswith(f"{GROWTH}, ")]
    else:
        rate = {name: median(run["rate"] for run in runs) for name, runs in said.items()}
        about = f"leap-tiny int8, {len(chosen)} photos, one thread per worker"
        rows = [figure(name, "photos per second", value, about, options.note) for name, value in rate.items()]
        for name, runs in said.items():
            rows.append(figure(name, "seconds in all", median(run["seconds"] for run in runs), about, options.note))
        plain, bare, one, two = rate.values()
        rows += [
            figure("Ray, 1 worker", "overhead over the loop of one process", plain / one - 1, about, options.note),
            figure("Ray, 1 worker", "overhead over the same shards without Ray", bare / one - 1, about, options.note),
            figure("Ray, 2 workers", "speed over 1 worker", two / one, about, options.note),
        ]
    write(HERE / "embedding.csv", rows)
    count, have = 1000, len(find_photos(options.growth).photos) if options.growth else 0
    while count <= have * 1.05:  # a set of 99,700 photos is as good as 100,000
        run = _in_a_process(options.growth, count, RUNS[GROWTH])
        print(count, run, flush=True)
        about = f"leap-tiny int8, {min(count, have) // PIECES * PIECES} photos, one thread per worker"
        rows += [
            figure(f"{GROWTH}, {count} photos", "seconds in all", run["seconds"], about, options.note),
            figure(
                f"{GROWTH}, {count} photos", "megabytes of the driver, at most", run["megabytes"], about, options.note
            ),
        ]
        write(HERE / "embedding.csv", rows)  # each size takes ten times as long as the one before
        count *= 10


def _in_a_process(photos: Path, most: int, workers: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tools.scale_embed", str(photos), "--most", str(most), "--run", str(workers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
