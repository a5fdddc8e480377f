"""Compare the speed of a model's files on this device.

A busy machine slows down whatever is being measured at that moment. So the contenders (one file, at one batch size)
take many turns within one run, and a disturbance hits all of them. The first call of a turn is not counted, because the
caches are still full of another model's weights. Load time and memory are measured in a fresh process per contender.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from leap_zoo.card import Artifact, Format, ModelCard, Precision
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.errors import ArtifactRefused, InvalidArgument, MissingExtra, NotPulled
from leap_zoo.loading import choose_artifact, open_artifact
from leap_zoo.model import Model
from leap_zoo.progress import Progress
from leap_zoo.store import Zoo, ZooLocation, find

ROUNDS = 12
SECONDS = 3.0
MAX_BATCH = 1024
_WARM_UP = 3

Cost = tuple[float | None, int | None]


@dataclass(frozen=True)
class Plan:
    """What to measure: every artifact, or those of one precision or format, at each thread count and batch size.

    seconds: approximate duration of the timed calls per contender. costs: also measure load time and memory. providers:
    ONNX Runtime's execution providers for ONNX files; `Row.runtime` records the ones that were used.
    """

    threads: Sequence[int] = (1,)
    batches: Sequence[int] = (1,)
    precision: Precision | None = None
    format: Format | None = None
    seconds: float = SECONDS
    costs: bool = True
    providers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise InvalidArgument(f"seconds must be above 0 and at most 3600, not {self.seconds:g}")
        for batch in self.batches:
            if not 1 <= batch <= MAX_BATCH:
                raise InvalidArgument(f"a batch must have 1 to {MAX_BATCH} photos, not {batch}")


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One contender's result: milliseconds per call through `leap_zoo`, measured in turns with the others.

    isa: instruction sets, joined by spaces. n: number of timed calls on arrays that are ready for the graph. load_ms,
    peak_memory_bytes: see `measure_cost`. times_fp32: speed-up over the fp32 ONNX file under the same conditions, from
    the fastest calls; None without one. date: UTC.
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
    input: Literal["pixels"] = "pixels"
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


class Contender(NamedTuple):
    """A model to time. format: its name in `Row.format`. load: a picklable function. costs: whether to measure them."""

    format: str
    load: Callable[[], Model]
    costs: bool = True


Peer = Callable[[Zoo, ModelCard, int], Contender]  # makes a rival for a thread count


def bench(
    names: Sequence[str], plan: Plan, zoo: ZooLocation | None = None, peers: Sequence[Peer] = (), *, shown: bool = False
) -> tuple[list[Row], list[str]]:
    """Measure the models `names` on this device. Returns the rows, and notes about the files that were left out.

    shown: draw a progress bar if stderr is a terminal.
    Raises UnknownModel, InvalidArgument; MissingExtra when the requested runtime is not installed.
    """
    notes: list[str] = []
    chosen = [(*found, _runnable(*found, plan, notes)) for found in (find(name, zoo) for name in dict.fromkeys(names))]
    conditions = len(set(plan.threads)) * len(set(plan.batches))
    contenders = sum(len(files) + len(peers) for _, _, files in chosen)
    rows: list[Row] = []
    with Progress(contenders * conditions * ROUNDS, shown=shown) as progress:
        for place, card, files in chosen:
            # One thread count at a time: resizing a thread pool at every turn makes it slower.
            ours: list[Row] = []
            for threads in dict.fromkeys(plan.threads):
                rivals = [_contender(place, card, file, threads, plan) for file in files]
                rivals += [peer(place, card, threads) for peer in peers]
                ours += _measure(rivals, plan, progress)
            rows += relative(ours, lambda row: (row.format, row.precision) == ("onnx", "fp32"))
    return rows, notes


def _runnable(place: Zoo, card: ModelCard, plan: Plan, notes: list[str]) -> list[Artifact]:
    """The artifacts to measure; the reasons for leaving out others are added to `notes`."""
    choose_artifact(card, plan.precision, plan.format)  # raises if the model has no such file
    runnable = []
    for artifact in card.artifacts:
        if plan.precision not in (None, artifact.precision) or plan.format not in (None, artifact.format):
            continue
        try:
            _contender(place, card, artifact, 1, plan).load()
            runnable.append(artifact)
        except (MissingExtra, ArtifactRefused, NotPulled) as error:
            if plan.format is not None and not isinstance(error, NotPulled):
                raise
            notes.append(f"{artifact.file} was left out: {error}")
    if not runnable:
        raise InvalidArgument(f"none of {card.id}'s files can be measured here: {'; '.join(notes)}")
    return runnable


def _contender(place: Zoo, card: ModelCard, artifact: Artifact, threads: int, plan: Plan) -> Contender:
    providers = plan.providers if artifact.format == "onnx" else None
    return Contender(artifact.format, partial(open_artifact, place, card, artifact, threads, providers=providers))


def _measure(contenders: Sequence[Contender], plan: Plan, progress: Progress) -> list[Row]:
    calls: list[Callable[[], object]] = []
    rows: list[Callable[[Sequence[float]], Row]] = []
    for contender in contenders:
        model = contender.load()
        for batch in dict.fromkeys(plan.batches):
            # Costs are measured before this process is busy.
            cost = measure_cost(contender.load, batch) if plan.costs and contender.costs else (None, None)
            calls.append(partial(_call, model, _pixels(model, batch)))
            rows.append(partial(_row, contender.format, model, batch, cost))
    samples = take_turns(calls, plan.seconds, progress.step)
    return [row(times) for row, times in zip(rows, samples, strict=True)]


def _row(format: str, model: Model, batch: int, cost: Cost, times: Sequence[float]) -> Row:
    median = float(np.median(times))
    return Row(
        model=model.card.id,
        revision=model.card.revision,
        file=model.artifact.file,
        format=format,
        precision=model.artifact.precision,
        runtime=model.runtime,
        device=cpu_name(),
        isa=" ".join(instruction_sets()),
        threads=model.session.threads,
        batch=batch,
        n=len(times),
        min_ms=round(min(times), 4),
        median_ms=round(median, 4),
        p95_ms=round(float(np.percentile(times, 95)), 4),
        images_per_second=round(batch / median * 1000, 2),
        load_ms=cost[0],
        peak_memory_bytes=cost[1],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def take_turns(
    calls: Sequence[Callable[[], object]], seconds: float, step: Callable[[], None] = lambda: None, rounds: int = ROUNDS
) -> list[list[float]]:
    """Time all contenders in turns, each for about `seconds` (at least one call per round); milliseconds per call."""
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


def relative(rows: Sequence[AnyRow], is_reference: Callable[[AnyRow], bool], field: str = "times_fp32") -> list[AnyRow]:
    """Fill `field` in the rows of one model: the speed-up over the reference row under the same conditions.

    The fastest calls are compared, because other work on the machine only ever adds time.
    """
    references = {(row.threads, row.batch): row.min_ms for row in rows if is_reference(row)}
    filled = []
    for row in rows:
        reference = references.get((row.threads, row.batch))
        filled.append(replace(row, **{field: None if reference is None else round(reference / row.min_ms, 3)}))
    return filled


def slowdown(rows: Sequence[Row]) -> float:
    """The largest ratio of a median to its fastest call: about 1.1 on an idle machine."""
    return max((row.median_ms / row.min_ms for row in rows if row.min_ms > 0), default=1.0)


def measure_cost(load: Callable[[], Model], batch: int) -> Cost:
    """Milliseconds from a cold start to the first answer, including the runtime's import, and peak memory in bytes.

    Runs in a fresh process, because memory that one model has taken would hide what the next one needs. The peak covers
    the whole process, Python included; None where the system does not report it. Raises ArtifactRefused.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(_cost, load, batch).result()
        except BrokenProcessPool as error:
            raise ArtifactRefused(
                "the process that loaded a model was killed, probably for lack of memory: measure fewer files at once"
            ) from error


def _cost(load: Callable[[], Model], batch: int) -> Cost:
    started = time.perf_counter()
    model = load()
    pixels = _pixels(model, batch)
    _call(model, pixels)
    load_ms = round((time.perf_counter() - started) * 1000, 1)
    for _ in range(2):  # a runtime may allocate more once it has seen the shape
        _call(model, pixels)
    return load_ms, _peak_memory()


def _peak_memory() -> int | None:
    """Peak memory in bytes. On Linux VmHWM, because `ru_maxrss` there includes the process that forked this one."""
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


def _pixels(model: Model, batch: int) -> npt.NDArray[np.uint8]:
    size = model.card.preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def _call(model: Model, pixels: npt.NDArray[np.uint8]) -> object:
    """The timed call: it computes all outputs of the graph, as a torch model does."""
    return model.run(pixels, [tensor.name for tensor in model.card.outputs])
