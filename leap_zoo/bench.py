"""How fast are the files of a model on this device, beside each other?

A busy machine is slow for whoever is measured just then. So the contenders (a file, with some photos per call) take
turns, many times, within one run: what disturbs one disturbs all. The first call of a turn is not counted: it finds the
caches full of another model's weights.

`python -m leap_zoo.bench` reads a `Task` as JSON on stdin and prints the `Cost` of loading it. One runs per contender:
memory that one model has taken would otherwise hide what the next one needs.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace
from PIL import Image

from leap_zoo.card import Artifact, Format, ModelCard, Precision
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.errors import ArtifactRefused, InvalidArgument, LeapZooError, MissingExtra
from leap_zoo.model import Model, choose_artifact, open_artifact
from leap_zoo.preprocess import to_tensor
from leap_zoo.store import Zoo, ZooLocation, find

ROUNDS = 12
SECONDS = 3.0
MAX_BATCH = 1024
PHOTO = (640, 480)  # of the JPEG that `decode` reads
PROBE_SECONDS = 600
_WARM_UP = 3

Input = Literal["pixels", "jpeg"]
Step = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """What is measured: every artifact, or those of one precision or format, on each number of threads and photos.

    seconds: of timed calls per contender, about. decode: JPEG photos of 640 x 480 too, decoded and resized in the timed
    call. costs: load time and memory, which take a process per contender. providers: of ONNX Runtime, for ONNX files;
    `Row.runtime` says what a file ran on.
    """

    threads: Sequence[int] = (1,)
    batches: Sequence[int] = (1,)
    precision: Precision | None = None
    format: Format | None = None
    seconds: float = SECONDS
    decode: bool = False
    costs: bool = True
    providers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise InvalidArgument(f"seconds must be above 0 and at most 3600, not {self.seconds:g}")
        for batch in self.batches:
            if not 1 <= batch <= MAX_BATCH:
                raise InvalidArgument(f"a batch must have 1 to {MAX_BATCH} photos, not {batch}")


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One contender of one run: milliseconds per call through `leap_zoo`, all contenders in turns.

    isa: instruction sets, joined by spaces. input: `pixels` (ready-made arrays), or `jpeg`: decoding and resizing of
    every photo is timed too. n: calls timed. load_ms, peak_memory_bytes: see `Cost`. times_fp32: how many times faster,
    by the fastest calls, than the fp32 ONNX file in the same run on as many threads, photos and the same input; None
    without it. date: UTC, ISO 8601.
    """

    model: str
    revision: str
    file: str
    format: str
    precision: str
    runtime: str
    device: str
    isa: str
    threads: int
    batch: int
    input: Input
    n: int
    min_ms: float
    median_ms: float
    p95_ms: float
    images_per_second: float
    load_ms: float | None = None
    peak_memory_bytes: int | None = None
    times_fp32: float | None = None
    date: str


AnyRow = TypeVar("AnyRow", bound=Row)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """load_ms: from the file's bytes to the first answer, imports of the runtime included.

    peak_memory_bytes: the largest resident size of the whole process, Python and runtime included; None where the
    system does not report it.
    """

    load_ms: float
    peak_memory_bytes: int | None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe loads. format: of a file, or which peer."""

    model: str
    zoo: str | None
    precision: str
    format: str
    threads: int
    batch: int
    providers: Sequence[str] | None = None


class Contender(NamedTuple):
    """A loaded model, what `Row.format` calls it, and what `python -m` runs to probe it."""

    model: Model
    format: str
    probe: tuple[str, ...] | None = ("leap_zoo.bench",)


Peer = Callable[[Zoo, ModelCard, int], Contender]  # a rival, on so many threads, that takes turns with the files


def bench(
    names: Sequence[str],
    plan: Plan,
    zoo: ZooLocation | None = None,
    begin: Callable[[int], Step] | None = None,
    peers: Sequence[Peer] = (),
) -> tuple[list[Row], list[str]]:
    """Measure the models `names` on this device: the rows, and which files were left out and why.

    begin: called once with the number of steps of a progress bar; what it returns is called after each step.
    Raises UnknownModel, InvalidArgument; MissingExtra when a runtime that was asked for is not installed.
    """
    chosen = [_choose(*find(name, zoo), plan) for name in dict.fromkeys(names)]
    conditions = len(set(plan.threads)) * len(set(plan.batches)) * (1 + ROUNDS * (2 if plan.decode else 1))
    step = begin(sum(len(choice.artifacts) + len(peers) for choice in chosen) * conditions) if begin else lambda: None
    rows: list[Row] = []
    for choice in chosen:
        ours: list[Row] = []
        # One number of threads after the other: a thread pool that is resized at every turn is slower than it need be.
        for threads in dict.fromkeys(plan.threads):
            contenders = [
                Contender(
                    open_artifact(choice.place, choice.card, file, threads, providers=_providers(plan.providers, file)),
                    file.format,
                )
                for file in choice.artifacts
            ]
            contenders += [peer(choice.place, choice.card, threads) for peer in peers]
            entries = [entry for one in contenders for entry in _entries(one, plan, zoo, step)]
            samples = take_turns([entry.call for entry in entries], plan.seconds, step)
            ours += [_row(*pair) for pair in zip(entries, samples, strict=True)]
        rows += relative(ours, lambda row: (row.format, row.precision) == ("onnx", "fp32"))
    return rows, [note for choice in chosen for note in choice.left_out]


def take_turns(
    calls: Sequence[Callable[[], object]], seconds: float, step: Step = lambda: None, rounds: int = ROUNDS
) -> list[list[float]]:
    """Milliseconds of every counted call, per contender: about `seconds` each, at least one call per round."""
    samples: list[list[float]] = [[] for _ in calls]
    for call in calls:
        for _ in range(_WARM_UP):
            call()
    for turn in range(rounds):
        # Back and forth, so that no contender always follows the same one.
        order = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        for index in order:
            call = calls[index]
            call()
            end = time.perf_counter() + seconds / rounds
            while True:
                started = time.perf_counter()
                call()
                done = time.perf_counter()
                samples[index].append((done - started) * 1000)
                if done >= end:
                    break
            step()
    return samples


def slowdown(rows: Sequence[Row]) -> float:
    """The largest median over its fastest call: about 1.1 on a machine that does nothing else."""
    return max((row.median_ms / row.min_ms for row in rows if row.min_ms > 0), default=1.0)


def probe(task: Task, module: Sequence[str] = ("leap_zoo.bench",)) -> Cost:
    """Carry out `task` by `python -m module` in a fresh process. Raises ArtifactRefused when it cannot be loaded."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *module],
            input=msgspec.json.encode(task),
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactRefused(f"{task.model} was not loaded in {PROBE_SECONDS} s: choose fewer options") from error
    try:
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=Cost)
    except (IndexError, msgspec.DecodeError) as error:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise ArtifactRefused(f"{task.model} {task.format} {task.precision} cannot be loaded: {lines[-1]}") from error


def answer_probe(prepare: Callable[[Task, Zoo, ModelCard], Callable[[], Model]]) -> int:
    """One task from stdin, its cost to stdout; exit status 2 and one line on stderr for an error.

    What `prepare` does is not counted; the function that it returns loads the model.
    """
    try:
        task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
        place, card = find(task.model, task.zoo)
        load, call = prepare(task, place, card), _pixels(card, task.batch)
        started = time.perf_counter()
        model = load()
        call(model)
        load_ms = (time.perf_counter() - started) * 1000
        for _ in range(2):  # a runtime may take more memory when it has seen the shape
            call(model)
        print(msgspec.json.encode(Cost(load_ms=load_ms, peak_memory_bytes=peak_memory())).decode())
    except LeapZooError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def peak_memory() -> int | None:
    """The largest resident size that this process has had, in bytes; None where the system does not report it.

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


class _Choice(NamedTuple):
    """A model, its artifacts that this installation can run, and notes on the others."""

    place: Zoo
    card: ModelCard
    artifacts: list[Artifact]
    left_out: list[str]


def _choose(place: Zoo, card: ModelCard, plan: Plan) -> _Choice:
    choose_artifact(card, plan.precision, plan.format)  # raises when there is none of that kind
    runnable, left_out = [], []
    for artifact in card.artifacts:
        if plan.precision not in (None, artifact.precision) or plan.format not in (None, artifact.format):
            continue
        if not place.holds(card, artifact):
            left_out.append(f"{artifact.file} was left out, it was not pulled: leap-zoo pull {card.id}")
            continue
        try:
            open_artifact(place, card, artifact, 1, providers=_providers(plan.providers, artifact))
            runnable.append(artifact)
        except (MissingExtra, ArtifactRefused) as error:
            if plan.format is not None:
                raise
            left_out.append(f"{artifact.file} was left out: {error}")
    if not runnable:
        raise InvalidArgument(f"no file of {card.id} can be measured here: {'; '.join(left_out)}")
    return _Choice(place, card, runnable, left_out)


class _Entry(NamedTuple):
    """A contender under one condition."""

    contender: Contender
    batch: int
    input: Input
    call: Callable[[], object]
    cost: Cost | None


def _entries(contender: Contender, plan: Plan, zoo: ZooLocation | None, step: Step) -> Iterator[_Entry]:
    """What takes turns; costs are measured before this process is busy."""
    model, place = contender.model, None if zoo is None else str(zoo)
    for batch in dict.fromkeys(plan.batches):
        cost = None
        if plan.costs and contender.probe:
            task = Task(
                model=model.card.id,
                zoo=place,
                precision=model.artifact.precision,
                format=contender.format,
                threads=model.session.threads,
                batch=batch,
                providers=plan.providers,
            )
            cost = probe(task, contender.probe)
        step()
        yield _Entry(contender, batch, "pixels", partial(_pixels(model.card, batch), model), cost)
        if plan.decode:  # the probe decodes nothing
            yield _Entry(contender, batch, "jpeg", _decoding(model, batch), None)


def _pixels(card: ModelCard, batch: int) -> Callable[[Model], object]:
    """What is timed: all outputs of the graph, as a peer in torch also computes all of them."""
    size, outputs = card.preprocessing.size, [tensor.name for tensor in card.outputs]
    pixels: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return lambda model: model.run(pixels, outputs)


def _decoding(model: Model, batch: int) -> Callable[[], object]:
    jpeg, spec, outputs = _jpeg(), model.card.preprocessing, [tensor.name for tensor in model.card.outputs]
    return lambda: model.run(np.stack([to_tensor(jpeg, spec) for _ in range(batch)]), outputs)


def _jpeg() -> bytes:
    """A JPEG file of smooth colours with some grain, about as large as a photo of that size."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(PHOTO, Image.Resampling.BICUBIC), np.int16)
    grainy = np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grainy).save(file, "JPEG", quality=85)
    return file.getvalue()


def _row(entry: _Entry, milliseconds: Sequence[float]) -> Row:
    model, cost = entry.contender.model, entry.cost
    median = float(np.median(milliseconds))
    return Row(
        model=model.card.id,
        revision=model.card.revision,
        file=model.artifact.file,
        format=entry.contender.format,
        precision=model.artifact.precision,
        runtime=model.session.runtime,
        device=cpu_name(),
        isa=" ".join(instruction_sets()),
        threads=model.session.threads,
        batch=entry.batch,
        input=entry.input,
        n=len(milliseconds),
        min_ms=round(min(milliseconds), 4),
        median_ms=round(median, 4),
        p95_ms=round(float(np.percentile(milliseconds, 95)), 4),
        images_per_second=round(entry.batch / median * 1000, 2),
        load_ms=None if cost is None else round(cost.load_ms, 1),
        peak_memory_bytes=None if cost is None else cost.peak_memory_bytes,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def relative(rows: Sequence[AnyRow], is_reference: Callable[[AnyRow], bool], field: str = "times_fp32") -> list[AnyRow]:
    """The rows of one model, `field` filled: how many times faster each is than the reference of its conditions.

    By the fastest calls: other work on the machine only ever adds, and more to short calls than to long ones.
    """
    references = {(row.threads, row.batch, row.input): row.min_ms for row in rows if is_reference(row)}
    filled = []
    for row in rows:
        reference = references.get((row.threads, row.batch, row.input))
        filled.append(replace(row, **{field: None if reference is None else round(reference / row.min_ms, 3)}))
    return filled


def _file(task: Task, place: Zoo, card: ModelCard) -> Callable[[], Model]:
    artifact = choose_artifact(card, task.precision, task.format)
    data = {file.file: place.read(card, file) for file in artifact.files}
    providers = _providers(task.providers, artifact)
    return lambda: Model.open(card, artifact, lambda file: data.pop(file.file), task.threads, providers=providers)


def _providers(providers: Sequence[str] | None, artifact: Artifact) -> Sequence[str] | None:
    return providers if artifact.format == "onnx" else None


if __name__ == "__main__":
    sys.exit(answer_probe(_file))
