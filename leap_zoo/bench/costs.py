"""`python -m leap_zoo.bench.costs`: what loading a model costs, in a process that does nothing else.

Reads a `Task` as JSON on stdin, prints a `Cost` as JSON. `leap_zoo.bench` starts one per contender: memory that one
model has taken would otherwise hide what the next one needs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from leap_zoo.card import Artifact, ModelCard
from leap_zoo.errors import ArtifactRefused, LeapZooError
from leap_zoo.model import Model, choose_artifact
from leap_zoo.store import find

SECONDS = 600  # torch.compile takes one of them on a desktop, and may take many on a small device


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Which contender. peer: an .npz with a student's weights, to be loaded in torch instead of the file."""

    model: str
    zoo: str | None
    precision: str
    format: str
    threads: int
    batch: int
    peer: str | None = None
    compiled: bool = False


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """load_ms: from the file's bytes to the first answer, imports of the runtime included.

    peak_memory_bytes: the largest resident size of the whole process, Python and runtime included; None where the
    system does not tell.
    """

    load_ms: float
    peak_memory_bytes: int | None


def probe(task: Task) -> Cost:
    """Carry out `task` in a fresh process. Raises ArtifactRefused when it cannot be loaded."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "leap_zoo.bench.costs"],
            input=msgspec.json.encode(task),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactRefused(f"{task.model} was not loaded in {SECONDS} s: bench it with fewer options") from error
    try:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Cost)
    except (IndexError, msgspec.DecodeError) as error:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise ArtifactRefused(f"{task.model} {task.format} {task.precision} cannot be loaded: {lines[-1]}") from error


def main() -> int:
    """One task from stdin; exit status 2 and one line on stderr for an error."""
    try:
        print(msgspec.json.encode(_measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))).decode())
    except LeapZooError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure(task: Task) -> Cost:
    place, card = find(task.model, task.zoo)
    artifact = choose_artifact(card, task.precision, task.format)
    size = card.preprocessing.size
    photos = np.random.default_rng(0).integers(0, 256, (task.batch, size, size, 3), dtype=np.uint8)
    outputs = [tensor.name for tensor in card.outputs]
    data = {} if task.peer else {file.file: place.read(card, file) for file in artifact.files}
    started = time.perf_counter()
    if task.peer:
        model = _peer(task, card, artifact)
    else:
        model = Model.open(card, artifact, lambda file: data.pop(file.file), task.threads)
    model.run(photos, outputs)
    load_ms = (time.perf_counter() - started) * 1000
    for _ in range(2):  # a runtime may take more memory when it has seen the shape
        model.run(photos, outputs)
    return Cost(load_ms=load_ms, peak_memory_bytes=peak_memory())


def _peer(task: Task, card: ModelCard, artifact: Artifact) -> Model:
    from leap_zoo.bench.peer import TorchSession

    with np.load(str(task.peer), allow_pickle=False) as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    return Model(card, artifact, TorchSession(card, artifact, weights, task.threads, compiled=task.compiled))


def peak_memory() -> int | None:
    """The largest resident size that this process has had, in bytes; None where the system does not tell.

    VmHWM on Linux: `ru_maxrss` there also remembers the process that forked this one.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    if sys.platform != "darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    sys.exit(main())
