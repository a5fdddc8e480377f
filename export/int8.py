"""int8 by one rule: every linear in int8, then the worst left in float, one by one, until the answers stay.

The answers stay when the file would pass the gate (`export.gate`) on photos that no figure is from. Layers are
ranked by what int8 in each of them alone does to the embedding. Everything that was tried goes into the card.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from tqdm import tqdm

from export import gate
from export.built import Built
from export.gate import Labelled, Outputs
from leap_zoo import card as cards
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.model import Model

SMOOTHING = (0.0, 0.5, 0.75)  # SmoothQuant's alpha; 0: none
MOST_FLOAT = 16  # layers; a student that needs more is not worth int8
ROUNDS = 40  # of turns; the fastest call of each counts
THREADS = 1
LARGEST_OTHER_DROP = 0.01  # of top-1 with a further head, on the selection photos
RIVAL = "ONNX Runtime's static quantisation, the same layers float"

Make = Callable[[float, tuple[str, ...]], Built]  # alpha, float layers -> the files
Open = Callable[[Built], Model]
Say = Callable[[str], None]


@dataclass
class Trial:
    """A file that was tried. `model` is None when it could not be built; `objection` says why it is out."""

    name: str
    format: cards.Format
    recipe: dict[str, object]
    built: Built | None = None
    model: Model | None = None
    compared: dict[str, float] | None = None
    objection: str | None = None
    milliseconds: float | None = None

    @property
    def cosine(self) -> float:
        """Mean, of its embeddings to those of fp32; -1 where there are none."""
        return -1.0 if self.compared is None else self.compared[gate.COSINE]


class Search:
    """Looks for a good int8 file of each format.

    open_built: makes a model of built files, on one thread. selections: the selection photos, with the labels of each
    head; a file that loses more than a point of top-1 with a head behind the first is out. layers: the worst first.
    """

    def __init__(
        self, open_built: Open, reference: Model, selections: Sequence[Labelled], layers: Sequence[str], say: Say
    ) -> None:
        self._open, self._reference, self._selections = open_built, reference, selections
        self._expected = [_answers(reference, photos) for photos in selections]
        self._layers, self._say = layers[:MOST_FLOAT], say
        self.trials: list[Trial] = []
        self.winners: dict[cards.Format, Trial] = {}

    def run(self, form: cards.Format, make: Make) -> tuple[str, ...] | None:
        """Try one format; returns the layers that its winner leaves in float, None where nothing passes."""
        trials = [self.attempt(form, make, alpha, ()) for alpha in SMOOTHING]
        alpha, best = max(zip(SMOOTHING, trials, strict=True), key=lambda pair: pair[1].cosine)
        kept: tuple[str, ...] = ()
        while best.objection is not None and best.compared is not None and len(kept) < len(self._layers):
            kept = (*kept, self._layers[len(kept)])
            best = self.attempt(form, make, alpha, kept)
        if best.objection is not None:
            return None
        self.winners[form] = best
        return kept

    def attempt(
        self, form: cards.Format, make: Make, alpha: float, kept: tuple[str, ...], name: str | None = None
    ) -> Trial:
        """Build a file and compare it with fp32."""
        smoothing = f"smooth {alpha:g}" if alpha else "no smoothing"
        spared = f", {len(kept)} layer{'s' * (len(kept) > 1)} float" if kept else ""
        trial = Trial(name or smoothing + spared, form, {})
        self.trials.append(trial)
        try:
            trial.built = make(alpha, kept)
            trial.recipe = trial.built.recipe or {}
            trial.model = self._open(trial.built)
            found = [_answers(trial.model, photos) for photos in self._selections]
        except Exception as error:  # a quantiser fails in ways of its own; the other trials go on
            trial.objection = " ".join(f"it failed: {error}".split())[:200]
            self._say(f"{form}, {trial.name}: {trial.objection}")
            return trial
        compared = [gate.fidelity(*three) for three in zip(self._expected, found, self._selections, strict=True)]
        trial.compared = {metric.name: metric.value for metric in compared[0]}
        first = gate.objection(compared[0], gate.SELECTION_MARGIN)
        objections = [first, *(_loses_classes(metrics) for metrics in compared[1:])]
        trial.objection = next((objection for objection in objections if objection is not None), None)
        self._say(f"{form}, {trial.name}: cosine {trial.cosine:.4f}{'' if trial.objection is None else ', out'}")
        return trial

    def account(self, calibration_photos: int, sensitivity: list[cards.Sensitivity], seconds: float) -> cards.Search:
        """What was tried and how fast it is, for the card. Milliseconds are measured here, in turns."""
        timed = [trial for trial in self.trials if trial in self.winners.values() or trial.name == RIVAL]
        pixels, labelled = self._selections[0].pixels, self._selections[0]
        base = _measure(self._reference, [trial for trial in timed if trial.model], pixels)
        for form, trial in self.winners.items():
            self._say(f"{form}: {trial.name}, {base / (trial.milliseconds or base):.2f} times as fast as fp32")
        return cards.Search(
            dataset=labelled.dataset,
            split=labelled.split,
            n=len(labelled.labels),
            calibration_photos=calibration_photos,
            device=cpu_name(),
            isa=list(instruction_sets()),
            threads=THREADS,
            minutes=round(seconds / 60, 1),
            candidates=[self._candidate(trial, base) for trial in self.trials],
            sensitivity=sensitivity,
        )

    def _candidate(self, trial: Trial, base: float) -> cards.Candidate:
        compared = trial.compared or {}
        if trial is self.winners.get(trial.format):
            outcome = "chosen"
        elif trial.name == RIVAL and trial.model is not None:
            outcome = "for comparison" if trial.objection is None else f"for comparison; {trial.objection}"
        elif trial.objection is not None:
            outcome = f"refused: {trial.objection}"
        else:
            outcome = "passed; another is closer to fp32"
        return cards.Candidate(
            name=trial.name,
            format=trial.format,
            precision="int8",
            recipe=trial.recipe,
            top1_drop=_share(compared.get(gate.DROP)),
            agreement=_share(compared.get(gate.AGREEMENT)),
            cosine_mean=_share(compared.get(gate.COSINE)),
            cosine_min=_share(compared.get(gate.LEAST_COSINE)),
            relative_ms=None if trial.milliseconds is None else trial.milliseconds / base,
            outcome=outcome,
        )


def rival(proto: onnx.ModelProto, photos: npt.NDArray[np.uint8], kept: Sequence[str]) -> onnx.ModelProto:
    """The fp32 graph by ONNX Runtime's own quantiser, ranges by the extremes on photos uint8 (N, H, W, 3).

    kept: linears that stay float. Attention stays float, too, as in ours.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(proto, source)
        quantize_static(
            source,
            target,
            _OneByOne(photos),
            op_types_to_quantize=["Gemm"],
            nodes_to_exclude=list(kept),
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


class _OneByOne(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Photos uint8 (N, H, W, 3), one at a time."""

    def __init__(self, photos: npt.NDArray[np.uint8]) -> None:
        self._photos = iter(photos)

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        """The next photo as a batch, None after the last."""
        photo = next(self._photos, None)
        return None if photo is None else {"image": photo[None]}


def _loses_classes(metrics: list[cards.Metric]) -> str | None:
    """Why a file is out by a further head: it has many classes, which are near to each other, and little room."""
    drop = next(metric for metric in metrics if metric.name == gate.DROP)
    if drop.value <= LARGEST_OTHER_DROP:
        return None
    return f"it loses {drop.value:.2%} of top-1 of the head {drop.head} on {drop.n} photos"


def _measure(reference: Model, trials: list[Trial], pixels: npt.NDArray[np.uint8]) -> float:
    """Fill in the fastest call of each trial; returns that of the reference. Milliseconds.

    In turns, one thread, batch 1, so that whatever else the machine does hits all alike.
    """
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


def _share(value: float | None) -> float | None:
    """Within -1..1, which a cosine in float32 leaves by a rounding; None for what is not finite."""
    return None if value is None or not np.isfinite(value) else float(np.clip(value, -1, 1))


def _answers(model: Model, photos: Labelled) -> Outputs:
    return model.run(photos.pixels, ["embedding", f"logits_{photos.head}"])
