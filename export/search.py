"""int8 as a search: try ways to quantise, measure each on photos that no figure is from, keep the fastest good one.

A way is good when it would pass the gate on the selection photos. Speed is measured in turns, one thread, batch 1, so
that whatever else the machine does hits all alike. Everything that was tried goes into the card.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from export import verify
from export.built import Built
from export.verify import Labelled, Outputs
from leap_zoo import card as cards
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.model import Model

ROUNDS = 40  # of turns; the fastest call of each counts
CONFIRMATIONS = 3  # how often a later way must show again that it is faster
SAME_SPEED = 1.1  # closer than this, two ways are equally fast, and the earlier wins: noise must not choose the file
THREADS = 1
LARGEST_OTHER_DROP = 0.01  # of top-1 with a further head, on the selection photos


@dataclass(frozen=True)
class Way:
    """One way to quantise: its name in the card, what it makes, its settings, and how to do it."""

    name: str
    format: cards.Format
    recipe: dict[str, object]
    build: Callable[[], Built]


@dataclass
class Trial:
    """A way that was tried. `model` is None when it could not be built; `objection` says why it is out."""

    way: Way
    built: Built | None = None
    model: Model | None = None
    compared: dict[str, float] | None = None
    objection: str | None = None
    milliseconds: float | None = None


def search(
    ways: Iterable[Way],
    open_built: Callable[[Built], Model],
    reference: Model,
    selection: Labelled,
    minutes: float,
    say: Callable[[str], None],
    others: Sequence[Labelled] = (),
) -> tuple[dict[cards.Format, Built], list[cards.Candidate]]:
    """The winner per format, where one passes, and everything that was tried.

    open_built: makes a model of built files, on one thread. minutes: after them no further way is begun; the first of
    each format always is. others: the selection photos with the labels of further heads; a way that loses more than a
    point of top-1 with one of them is out. Candidates are in the order in which they were tried.
    """
    expected = [_answers(reference, photos) for photos in (selection, *others)]
    trials = _try_all(ways, open_built, expected, (selection, *others), minutes, say)
    passing = [trial for trial in trials if trial.objection is None]
    base = _measure(reference, passing, selection.pixels)
    winners: dict[cards.Format, Built] = {}
    for form in dict.fromkeys(trial.way.format for trial in passing):
        best = _choose([trial for trial in passing if trial.way.format == form], open_built, selection.pixels)
        assert best.built is not None
        winners[form] = best.built
        say(f"{form}: `{best.way.name}` wins, {base / (best.milliseconds or base):.2f} times as fast as fp32")
    return winners, [_candidate(trial, winners, base) for trial in trials]


def describe(
    candidates: list[cards.Candidate],
    sensitivity: list[cards.Sensitivity],
    selection: Labelled,
    calibration_photos: int,
    minutes: float,
) -> cards.Search:
    """The card's account of a search on this machine."""
    return cards.Search(
        dataset=selection.dataset,
        split=selection.split,
        n=len(selection.labels),
        calibration_photos=calibration_photos,
        device=cpu_name(),
        isa=list(instruction_sets()),
        threads=THREADS,
        minutes=minutes,
        candidates=candidates,
        sensitivity=sensitivity,
    )


def _try_all(
    ways: Iterable[Way],
    open_built: Callable[[Built], Model],
    expected: Sequence[Outputs],
    selections: Sequence[Labelled],
    minutes: float,
    say: Callable[[str], None],
) -> list[Trial]:
    trials: list[Trial] = []
    started = time.monotonic()
    for way in tqdm(list(ways), "ways to int8", leave=False):
        begun = any(trial.way.format == way.format for trial in trials)
        if begun and time.monotonic() - started > minutes * 60:
            continue
        trial = Trial(way)
        trials.append(trial)
        try:
            trial.built = way.build()
            trial.model = open_built(trial.built)
            found = [_answers(trial.model, photos) for photos in selections]
        except Exception as error:  # a quantiser fails in ways of its own; the other ways go on
            trial.objection = " ".join(f"it failed: {error}".split())[:200]
            say(f"{way.format}, {way.name}: {trial.objection}")
            continue
        compared = [verify.fidelity(*three) for three in zip(expected, found, selections, strict=True)]
        trial.compared = {metric.name: metric.value for metric in compared[0]}
        objections = (verify.objection(compared[0]), *(_loses_classes(metrics) for metrics in compared[1:]))
        trial.objection = next((objection for objection in objections if objection is not None), None)
        cosine = trial.compared[verify.COSINE]
        say(f"{way.format}, {way.name}: cosine {cosine:.4f}{'' if trial.objection is None else ', out'}")
    return trials


def _loses_classes(metrics: list[cards.Metric]) -> str | None:
    """Why a way is out by a further head: it has many classes, which are near to each other, and little room."""
    drop = next(metric for metric in metrics if metric.name == verify.DROP)
    if drop.value <= LARGEST_OTHER_DROP:
        return None
    return f"it loses {drop.value:.2%} of top-1 of the head {drop.head} on {drop.n} photos"


def _measure(reference: Model, trials: list[Trial], pixels: npt.NDArray[np.uint8]) -> float:
    """Fill in the fastest call of each trial; returns that of the reference. Milliseconds."""
    models = [reference, *(trial.model for trial in trials if trial.model is not None)]
    names = list(reference.session.outputs)
    fastest = [np.inf] * len(models)
    for turn in tqdm(range(ROUNDS + 2), "timing", leave=False):
        photo = pixels[turn % len(pixels)][None]
        for number, model in enumerate(models):
            model.session.run(photo, names)  # brings its weights back into the caches
            started = time.perf_counter()
            model.session.run(photo, names)
            if turn >= 2:
                fastest[number] = min(fastest[number], (time.perf_counter() - started) * 1000)
    for trial, milliseconds in zip(trials, fastest[1:], strict=True):
        trial.milliseconds = milliseconds
    return fastest[0]


def _choose(trials: list[Trial], open_built: Callable[[Built], Model], pixels: npt.NDArray[np.uint8]) -> Trial:
    """The fastest; among those as fast, the one that was tried first."""
    best = trials[0]
    for trial in trials[1:]:
        if _milliseconds(trial) * SAME_SPEED < _milliseconds(best) and _is_faster(trial, best, open_built, pixels):
            best = trial
    return best


def _is_faster(
    challenger: Trial, champion: Trial, open_built: Callable[[Built], Model], pixels: npt.NDArray[np.uint8]
) -> bool:
    """Whether it is every time again, newly loaded: where a model's memory happens to lie can be worth a tenth."""
    for _ in range(CONFIRMATIONS):
        assert challenger.built is not None
        assert champion.built is not None
        again = Trial(challenger.way, challenger.built, open_built(challenger.built))
        if _milliseconds(again, _measure(open_built(champion.built), [again], pixels)) * SAME_SPEED >= 1:
            return False
    return True


def _milliseconds(trial: Trial, unit: float = 1.0) -> float:
    return np.inf if trial.milliseconds is None else trial.milliseconds / unit


def _candidate(trial: Trial, winners: dict[cards.Format, Built], base: float) -> cards.Candidate:
    compared = trial.compared or {}
    if trial.objection is not None:
        outcome = f"refused: {trial.objection}"
    elif winners.get(trial.way.format) is trial.built:
        outcome = "chosen"
    else:
        outcome = "passed, not chosen: not clearly faster"
    return cards.Candidate(
        name=trial.way.name,
        format=trial.way.format,
        precision="int8",
        recipe=trial.way.recipe,
        top1_drop=_share(compared.get(verify.DROP)),
        agreement=_share(compared.get(verify.AGREEMENT)),
        cosine_mean=_share(compared.get(verify.COSINE)),
        cosine_min=_share(compared.get(verify.LEAST_COSINE)),
        relative_ms=None if trial.milliseconds is None else trial.milliseconds / base,
        outcome=outcome,
    )


def _share(value: float | None) -> float | None:
    """Within -1..1, which a cosine in float32 leaves by a rounding; None for what is not finite."""
    return None if value is None or not np.isfinite(value) else float(np.clip(value, -1, 1))


def _answers(model: Model, photos: Labelled) -> Outputs:
    return model.run(photos.pixels, ["embedding", f"logits_{photos.head}"])
