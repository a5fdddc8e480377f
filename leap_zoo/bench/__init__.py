"""How fast are the files of a model on this device, beside each other and beside PyTorch?

A busy machine is slow for whoever is measured just then. So the contenders (a file, with some photos per call) take
turns, many times, within one run: what disturbs one disturbs all. The first call of a turn is not
counted: it finds the caches full of another model's weights.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace
from PIL import Image

from leap_zoo.bench.costs import Cost, Task, probe
from leap_zoo.bench.latency import Input, Row, card_rows
from leap_zoo.card import Artifact, Format, Latency, ModelCard, Precision
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.errors import ArtifactRefused, InvalidArgument, MissingExtra
from leap_zoo.model import Model, choose_artifact, open_artifact
from leap_zoo.preprocess import to_tensor
from leap_zoo.runtime import Session
from leap_zoo.store import Zoo, ZooLocation, find

ROUNDS = 12
SECONDS = 3.0
MAX_BATCH = 1024
PHOTO = (640, 480)  # of the JPEG that `decode` reads
_WARM_UP = 3

Peer = Literal["torch", "torch-compiled", "torch-onnx"]
Step = Callable[[], None]


@dataclass(frozen=True)
class Plan:
    """What is measured: every artifact, or those of one precision or format, on each number of threads and photos.

    seconds: of timed calls per contender, about. decode: JPEG photos of 640 x 480 too, decoded and resized in the timed
    call. against: the same student in PyTorch. costs: load time and memory, which take a process per contender.
    """

    threads: Sequence[int] = (1,)
    batches: Sequence[int] = (1,)
    precision: Precision | None = None
    format: Format | None = None
    seconds: float = SECONDS
    decode: bool = False
    against: Sequence[Peer] = ()
    costs: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise InvalidArgument(f"seconds must be above 0 and at most 3600, not {self.seconds:g}")
        for batch in self.batches:
            if not 1 <= batch <= MAX_BATCH:
                raise InvalidArgument(f"a batch must have 1 to {MAX_BATCH} photos, not {batch}")


@dataclass(frozen=True)
class Contender:
    """One loaded model, what it is given per call, and what loading it cost (None: not asked)."""

    model: Model
    format: str  # of the file, or which peer
    batch: int
    input: Input
    call: Callable[[], object]
    cost: Cost | None


def bench(
    names: Sequence[str], plan: Plan, zoo: ZooLocation | None = None, begin: Callable[[int], Step] | None = None
) -> tuple[list[Row], list[str]]:
    """Measure the models `names` on this device: the rows, and which files were left out and why.

    begin: called once with the number of steps of a progress bar; what it returns is called after each step.
    Raises UnknownModel, InvalidArgument; MissingExtra when a runtime that was asked for is not installed;
    ArtifactRefused when a peer in torch is not the same student.
    """
    chosen = [_choose(*find(name, zoo), plan) for name in dict.fromkeys(names)]
    step = begin(sum(_steps(choice, plan) for choice in chosen)) if begin else lambda: None
    rows: list[Row] = []
    for choice in chosen:
        ours: list[Row] = []
        # One number of threads after the other: a thread pool that is resized at every turn is slower than it need be.
        for threads in dict.fromkeys(plan.threads):
            contenders = _contenders(choice, None if zoo is None else str(zoo), plan, threads, step)
            samples = take_turns([contender.call for contender in contenders], plan.seconds, step)
            ours += [_row(*pair) for pair in zip(contenders, samples, strict=True)]
        rows += _relative(ours)
    return rows, [note for choice in chosen for note in choice.left_out]


def latency_rows(name: str, zoo: ZooLocation, *, threads: int = 1, seconds: float = SECONDS) -> list[Latency]:
    """Rows for the card of a model in a (staged) zoo: every artifact that runs here, one photo per call."""
    rows, _ = bench([name], Plan(threads=(threads,), seconds=seconds), zoo)
    return card_rows(rows)


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


@dataclass(frozen=True)
class _Choice:
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
            open_artifact(place, card, artifact, 1)
            runnable.append(artifact)
        except (MissingExtra, ArtifactRefused) as error:
            if plan.format is not None:
                raise
            left_out.append(f"{artifact.file} was left out: {error}")
    if not runnable:
        raise InvalidArgument(f"no file of {card.id} can be measured here: {'; '.join(left_out)}")
    return _Choice(place, card, runnable, left_out)


def _steps(choice: _Choice, plan: Plan) -> int:
    loaded = len(choice.artifacts) + len(set(plan.against))
    return loaded * len(set(plan.threads)) * len(set(plan.batches)) * (1 + ROUNDS * (2 if plan.decode else 1))


def _contenders(choice: _Choice, zoo: str | None, plan: Plan, threads: int, step: Step) -> list[Contender]:
    """Load everything that will take turns: peers checked, costs measured before this process is busy."""
    contenders = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "peer.npz"
        models = [(open_artifact(choice.place, choice.card, file, threads), file.format) for file in choice.artifacts]
        peers = _peers(choice.place, choice.card, weights, threads, plan.against)
        for model, format in [*models, *peers]:
            for batch in dict.fromkeys(plan.batches):
                # Exporting takes longer than loading and much memory: its costs would say nothing about the file.
                costs = plan.costs and format != "torch-onnx"
                cost = _cost(model, batch, zoo, weights if format == "torch" else None) if costs else None
                step()
                for input, call in _calls(model, batch, decode=plan.decode).items():
                    ours = cost if input == "pixels" else None  # the probe decodes nothing
                    contenders.append(Contender(model, format, batch, input, call, ours))
    return contenders


def _cost(model: Model, batch: int, zoo: str | None, weights: Path | None) -> Cost:
    return probe(
        Task(
            model=model.card.id,
            zoo=zoo,
            precision=model.artifact.precision,
            format=model.artifact.format,
            threads=model.session.threads,
            batch=batch,
            peer=None if weights is None else str(weights),
            compiled=model.session.runtime.endswith("compiled"),
        )
    )


def _peers(place: Zoo, card: ModelCard, weights: Path, threads: int, kinds: Sequence[Peer]) -> list[tuple[Model, str]]:
    """The student in PyTorch, compared with the fp32 file first. Raises InvalidArgument without such a file."""
    if not kinds:
        return []
    from leap_zoo.bench.peer import TorchSession, check_peer
    from leap_zoo.bench.peer_export import ExportedSession
    from leap_zoo.bench.peer_weights import read_weights

    reference = next((a for a in card.artifacts if (a.format, a.precision) == ("onnx", "fp32")), None)
    if reference is None:
        raise InvalidArgument(
            f"{card.id} lists no fp32 ONNX file, from which the peer in torch takes its weights: export the run with "
            "python -m export RUN --zoo FOLDER, then bench with --zoo FOLDER"
        )
    file = open_artifact(place, card, reference, threads)
    arrays = read_weights(place.read(card, reference), card)
    np.savez(weights, allow_pickle=False, **arrays)
    peers: list[tuple[Model, str]] = []
    for kind in dict.fromkeys(kinds):
        torch_session = TorchSession(card, reference, arrays, threads, compiled=kind == "torch-compiled")
        session: Session = torch_session
        if kind == "torch-onnx":
            session = ExportedSession(card, reference, torch_session, threads)
        peers.append((Model(card, reference, session), "torch-onnx" if kind == "torch-onnx" else "torch"))
        check_peer(peers[-1][0], file)
    return peers


def _calls(model: Model, batch: int, *, decode: bool) -> dict[Input, Callable[[], object]]:
    """What is timed: all outputs of the graph, as a peer in torch also computes all of them."""
    spec = model.card.preprocessing
    outputs = [tensor.name for tensor in model.card.outputs]
    random = np.random.default_rng(0)
    pixels: npt.NDArray[np.uint8] = random.integers(0, 256, (batch, spec.size, spec.size, 3), dtype=np.uint8)
    calls: dict[Input, Callable[[], object]] = {"pixels": lambda: model.run(pixels, outputs)}
    if decode:
        jpeg = _jpeg()
        calls["jpeg"] = lambda: model.run(np.stack([to_tensor(jpeg, spec) for _ in range(batch)]), outputs)
    return calls


def _jpeg() -> bytes:
    """A JPEG file of smooth colours with some grain, about as large as a photo of that size."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(PHOTO, Image.Resampling.BICUBIC), np.int16)
    grainy = np.clip(smooth + random.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grainy).save(file, "JPEG", quality=85)
    return file.getvalue()


def _row(contender: Contender, milliseconds: Sequence[float]) -> Row:
    model, cost = contender.model, contender.cost
    median = float(np.median(milliseconds))
    return Row(
        model=model.card.id,
        revision=model.card.revision,
        file=model.artifact.file,
        format=contender.format,
        precision=model.artifact.precision,
        runtime=model.session.runtime,
        device=cpu_name(),
        isa=" ".join(instruction_sets()),
        threads=model.session.threads,
        batch=contender.batch,
        input=contender.input,
        n=len(milliseconds),
        min_ms=round(min(milliseconds), 4),
        median_ms=round(median, 4),
        p95_ms=round(float(np.percentile(milliseconds, 95)), 4),
        images_per_second=round(contender.batch / median * 1000, 2),
        load_ms=None if cost is None else round(cost.load_ms, 1),
        peak_memory_bytes=None if cost is None else cost.peak_memory_bytes,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _relative(rows: Sequence[Row]) -> list[Row]:
    """The rows of one model with how many times faster each is than fp32 ONNX, and than the peers.

    By the fastest calls: other work on the machine only ever adds, and more to short calls than to long ones.
    """

    def times(row: Row, reference: Callable[[Row], bool]) -> float | None:
        conditions = (row.threads, row.batch, row.input)
        found = [r for r in rows if reference(r) and (r.threads, r.batch, r.input) == conditions]
        return round(found[0].min_ms / row.min_ms, 3) if found else None

    return [
        replace(
            row,
            times_fp32=times(row, lambda r: (r.format, r.precision) == ("onnx", "fp32")),
            times_eager=times(row, lambda r: r.format == "torch" and r.runtime.endswith("eager")),
            times_exported=times(row, lambda r: r.format == "torch-onnx"),
        )
        for row in rows
    ]
