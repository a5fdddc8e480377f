"""`python -m tools.load_serve`: what becomes of the server, and of its clients' requests, under stress?

It starts servers of its own, as a user does (`bentoml serve`), and does this to them:

  stops      SIGTERM under load, with a tab of the page open: is a request lost, and how soon has all ended?
  kills      SIGKILL of the worker under load: how long until it answers again, and which requests are lost?
  overload   twice as many requests as it can answer: how soon are the others refused, and is all well after?
  memory     many requests: does the worker grow?
  attacks    cheap and silent clients, five kinds: what rate does a well-behaved client keep?
  workers    two workers without the demo: how much faster than one?

For example: `python -m tools.load_serve overload --seconds 10 --out overload.json`. Without a name, all, which takes
about ten minutes. Each writes its part of results/serving/resilience.json, and leaves the others as they are.
Only overload and memory can be done to a server that runs already: `--port 3000 --supervisor PID`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from leap_zoo.files import atomic_file
from leap_zoo.progress import Progress
from tools import load_attacks, load_trials
from tools.http_load import photo_request, small_jpeg
from tools.provenance import provenance
from tools.server_process import ROOT, NotReady, ServerProcess, server_process

RESULT = ROOT / "results" / "serving" / "resilience.json"
PHOTO = ROOT / "docs" / "images" / "golf-ball.jpg"
_EVERY, _WARM_UP = 1000, 2000  # requests


@contextlib.contextmanager
def _served(options: argparse.Namespace) -> Iterator[ServerProcess]:
    """The server that runs already, or one of our own."""
    if options.supervisor:
        yield ServerProcess(options.port, psutil.Process(options.supervisor))  # type: ignore[arg-type]
    else:
        with server_process() as server:
            yield server


def stops(options: argparse.Namespace, request: bytes) -> dict[str, Any]:
    """Each stop needs a server of its own."""
    found = []
    with Progress(options.times) as progress:
        for _ in range(options.times):
            with server_process() as server:
                found.append(asyncio.run(load_trials.stop_under_load(server, request)))
            progress.step()
    lost = sum(len(one["lost"]) for one in found)
    return {"n": len(found), "lost": lost, "clients": 2 * load_trials.CLIENTS_AT_STOP, "stops": found}


def kills(options: argparse.Namespace, request: bytes) -> dict[str, Any]:
    """All on one server, which has to come back each time."""
    found = []
    with Progress(options.times) as progress, server_process() as server:
        for _ in range(options.times):
            found.append(asyncio.run(load_trials.kill_under_load(server, request)))
            progress.step()
    return {"n": len(found), "clients": load_trials.CLIENTS, "kills": found}


def overload(options: argparse.Namespace, request: bytes) -> dict[str, Any]:
    """The number of requests is known only once the capacity is: the bar is of seconds, nearly."""
    with _served(options) as server:
        return asyncio.run(load_trials.overload(server, request, options.seconds, lambda: None))


def memory(options: argparse.Namespace, request: bytes) -> dict[str, Any]:
    """Without what the first requests of a process need once."""
    with Progress(options.requests) as progress, _served(options) as server:
        trial = load_trials.many_requests(server, request, options.requests, _EVERY, _WARM_UP, progress.step)
        return asyncio.run(trial)


def attacks(options: argparse.Namespace, request: bytes) -> dict[str, Any]:
    """All on one server, which has a large gallery."""
    with Progress(len(load_attacks.ATTACKS)) as progress:
        return load_attacks.attacks(small_jpeg(options.photo), options.turn, progress.step)


def workers(options: argparse.Namespace, request: bytes) -> dict[str, Any]:
    """Servers of all kinds run side by side, and are asked in turns."""
    with Progress(options.times) as progress:
        return load_attacks.workers(small_jpeg(options.photo), options.turn / 2, options.times, progress.step)


TRIALS = {one.__name__: one for one in (stops, kills, overload, memory, attacks, workers)}


def write(out: Path, name: str, part: dict[str, Any]) -> None:
    """Put `part` in the file, beside what is there of other trials."""
    known = json.loads(out.read_text()) if out.is_file() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as file:
        file.write((json.dumps(known | {name: part}, indent=1) + "\n").encode())


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.load_serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trial", nargs="*", metavar="TRIAL", help=f"of {', '.join(TRIALS)}; default: all")
    parser.add_argument("--times", type=int, default=10, help="stops, kills, and rounds of workers; default 10")
    parser.add_argument(
        "--turn", type=float, default=8, help="seconds beside an attack, half of it for workers; default 8"
    )
    parser.add_argument("--seconds", type=float, default=60, help="of overload; default 60")
    parser.add_argument("--requests", type=int, default=20_000, help="of memory, at least 4000; default 20000")
    parser.add_argument("--photo", type=Path, default=PHOTO, help="default: the drawn one in docs/images")
    parser.add_argument("--port", type=int, default=3000, help="of a server that runs already, on this machine")
    parser.add_argument("--supervisor", type=int, metavar="PID", help="of that server's first process")
    parser.add_argument("--out", type=Path, default=RESULT, help="default: results/serving/resilience.json")
    parser.add_argument("--json", action="store_true", help="print the parts that were measured as one document")
    options = parser.parse_args()
    options.trial = options.trial or list(TRIALS)
    for name in options.trial:
        if name not in TRIALS:
            parser.error(f"there is no trial {name!r}: choose of {', '.join(TRIALS)}")
    if options.requests < 2 * _WARM_UP or options.times < 1 or not 1 <= options.seconds <= 600 or options.turn < 1:
        parser.error("--requests must be at least 4000, --times and --turn at least 1, --seconds 1 to 600")
    if options.supervisor and not {"overload", "memory"}.issuperset(options.trial):
        parser.error("--supervisor: only overload and memory can be done to a server that runs already")
    return options


def main() -> int:
    """Measure, print, write; exit status 2 when a server does not start."""
    options = read_options()
    request = photo_request("/v1/embed", small_jpeg(options.photo))
    measured = {}
    for name in options.trial:
        about = provenance()
        try:
            found = TRIALS[name](options, request)
        except NotReady as error:
            print(f"tools.load_serve: {error}", file=sys.stderr)
            return 2
        measured[name] = about | found
        write(options.out, name, measured[name])
        if not options.json:
            print(f"{name}: {json.dumps(found)}")
    if options.json:
        print(json.dumps(measured, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
