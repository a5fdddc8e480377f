"""int8 by one rule: every linear in int8, then the worst ones in float, one by one, until the file is accurate.

It is accurate if it would pass the gate (`export.gate`) on photos that no figure uses. Layers are ranked by the effect
on the embedding of int8 in that layer alone. Every attempt is recorded in the card.
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
MOST_FLOAT = 16  # layers; a student that needs more does not benefit from int8
ROUNDS = 40  # of timing; the fastest call of each file counts
THREADS = 1
LARGEST_OTHER_DROP = 0.01  # of top-1 with any other head, on the selection photos
RIVAL = "ONNX Runtime's static quantization, the same layers float"

Make = Callable[[float, tuple[str, ...]], Built]  # alpha, float layers -> the files
Open = Callable[[Built], Model]
Say = Callable[[str], None]


@dataclass
class Trial:
    """A file that was tried. `model` is None if it could not be built; `objection` says why it was rejected."""

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
        """Mean cosine of its embeddings to those of fp32; -1 if there are none."""
        return -1.0 if self.compared is None else self.compared[gate.COSINE]


class Search:
    """Finds a good int8 file of each format.

    open_built: opens built files as a model on one thread. selections: the selection photos with the labels of each
    head; a file that loses more than a point of top-1 with a head after the first is rejected. layers: worst first.
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
        """Try one format; returns the layers that the chosen file keeps in float, or None if no file passes."""
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
        except Exception as error:  # quantizers raise errors of all kinds; the other trials go on
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
        """All trials and their speed, for the card. Milliseconds are measured here, in turns."""
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
    """The fp32 graph, quantized by ONNX Runtime with min-max ranges on photos uint8 (N, H, W, 3).

    kept: linears that stay float. Attention also stays float, as in this project's files.
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
    """Why a file is rejected because of another head, whose classes may be many and similar; None if it is not."""
    drop = next(metric for metric in metrics if metric.name == gate.DROP)
    if drop.value <= LARGEST_OTHER_DROP:
        return None
    return f"it loses {drop.value:.2%} of top-1 of the head {drop.head} on {drop.n} photos"


def _measure(reference: Model, trials: list[Trial], pixels: npt.NDArray[np.uint8]) -> float:
    """Record the fastest call of each trial; returns that of the reference. Milliseconds.

    In turns, one thread, batch 1, so that other load on the machine affects all alike.
    """
    models = [reference, *(trial.model for trial in trials if trial.model is not None)]
    names = list(reference.session.outputs)
    fastest = [np.inf] * len(models)
    for turn in tqdm(range(ROUNDS + 2), "timing", leave=False):
        photo = pixels[turn % len(pixels)][None]
        for number, model in enumerate(models):
            model.session.run(photo, names)  # loads its weights into the caches
            started = time.perf_counter()
            model.session.run(photo, names)
            if turn >= 2:
                fastest[number] = min(fastest[number], (time.perf_counter() - started) * 1000)
    for trial, milliseconds in zip(trials, fastest[1:], strict=True):
        trial.milliseconds = milliseconds
    return fastest[0]


def _share(value: float | None) -> float | None:
    """Clipped to -1..1, because a cosine in float32 may exceed it by rounding; None if it is not finite."""
    return None if value is None or not np.isfinite(value) else float(np.clip(value, -1, 1))


def _answers(model: Model, photos: Labelled) -> Outputs:
    return model.run(photos.pixels, ["embedding", f"logits_{photos.head}"])
