"""int8 by one rule: every linear in int8, then the worst ones in float, one by one, until the file is accurate.

It is accurate if it would pass the gate (`export.gate`) on photos that no figure uses. Layers are ranked by the effect
on the embedding of int8 in that layer alone. Every attempt is recorded in the card.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from tqdm import tqdm

from export import compact, gate, onnx_writer, openvino, quantize
from export.built import Built
from export.gate import Labelled, Outputs
from export.graph import Weights
from leap_zoo import card as cards
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.model import Model
from train.run import Run

CALIBRATION_PHOTOS = 300
SELECTION_PHOTOS = 500  # the search measures fidelity on them
SENSITIVITY_PHOTOS = 64
SENSITIVITY_ALPHA = 0.5
SMOOTHING = (0.0, 0.5, 0.75)  # SmoothQuant's alpha; 0: none
MOST_FLOAT = 16  # layers; a student that needs more does not benefit from int8
ROUNDS = 40  # of timing; the fastest call of each file counts
THREADS = 1
LARGEST_OTHER_DROP = 0.01  # of top-1 with any other head, on the selection photos
RIVAL = "ONNX Runtime's static quantization, the same layers float"

Make = Callable[[float, tuple[str, ...]], Built]  # alpha, float layers -> the files
Open = Callable[[Built], Model]
Say = Callable[[str], None]


def search(
    run: Run, weights: Weights, metadata: dict[str, str], reference: Model, formats: list[cards.Format], opened: Open,
    say: Say,
) -> tuple[list[Built], cards.Search]:  # fmt: skip
    """The int8 file of each format for which one passes, and the record for the card.

    reference: the fp32 ONNX file. opened: opens built files as a model; both on THREADS threads.
    """
    started = time.monotonic()
    calibration, selection = _photos(run)
    say(f"int8: calibrated on {len(calibration.labels)} photos of the training split, "
        f"compared on {len(selection.labels)} others")  # fmt: skip
    makers = _makers(weights, calibration.pixels, metadata)
    alone = quantize.calibrate(weights, calibration.pixels, SENSITIVITY_ALPHA)
    sensitivity = _sensitivity(alone, reference, selection.pixels[:SENSITIVITY_PHOTOS], opened)
    layers = [row.layer for row in sensitivity]
    rule = Rule(opened, reference, [selection, *_by_teacher(run, selection)], layers, say)
    for form in tqdm(formats, "int8", leave=False):
        kept = rule.run(form, makers[form])
        if form == "onnx" and kept is not None:
            rule.attempt("onnx", makers["rival"], 0.0, kept, RIVAL)
    record = cards.Search(
        dataset=selection.dataset,
        split=selection.split,
        n=len(selection.labels),
        calibration_photos=len(calibration.labels),
        device=cpu_name(),
        isa=list(instruction_sets()),
        threads=THREADS,
        candidates=rule.candidates(),
        minutes=round((time.monotonic() - started) / 60, 1),
        sensitivity=sensitivity,
    )
    return [trial.built for trial in rule.winners.values() if trial.built], record


@dataclass(eq=False)
class Trial:
    """A file that was tried. `model` is None if it could not be built; `objection` says why it was rejected."""

    name: str
    format: cards.Format
    built: Built | None = None
    model: Model | None = None
    compared: dict[str, float] = field(default_factory=dict)
    objection: str | None = None
    relative_ms: float | None = None

    def share(self, name: str) -> float | None:
        """A figure, clipped to -1..1, because a cosine in float32 may exceed it by rounding; None if there is none."""
        value = self.compared.get(name, np.nan)
        return float(np.clip(value, -1, 1)) if np.isfinite(value) else None

    @property
    def cosine(self) -> float:
        """Mean cosine of its embeddings to those of fp32; -1 if there are none."""
        found = self.share(gate.COSINE)
        return -1.0 if found is None else found


class Rule:
    """Finds a good int8 file of each format.

    opened: opens built files as a model on one thread. selections: the selection photos with the labels of each
    head; a file that loses more than a point of top-1 with a head after the first is rejected. layers: worst first.
    """

    def __init__(
        self, opened: Open, reference: Model, selections: Sequence[Labelled], layers: Sequence[str], say: Say
    ) -> None:
        self._open, self._reference, self._selections = opened, reference, selections
        self._expected = [_answers(reference, photos) for photos in selections]
        self._layers, self._say = layers[:MOST_FLOAT], say
        self.trials: list[Trial] = []
        self.winners: dict[cards.Format, Trial] = {}

    def run(self, form: cards.Format, make: Make) -> tuple[str, ...] | None:
        """Try one format; returns the layers that the chosen file keeps in float, or None if no file passes."""
        trials = [self.attempt(form, make, alpha, ()) for alpha in SMOOTHING]
        alpha, best = max(zip(SMOOTHING, trials, strict=True), key=lambda pair: pair[1].cosine)
        kept: tuple[str, ...] = ()
        while best.objection is not None and best.model is not None and len(kept) < len(self._layers):
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
        trial = Trial(name or smoothing + spared, form)
        self.trials.append(trial)
        try:
            trial.built = make(alpha, kept)
            model = self._open(trial.built)
            found = [_answers(model, photos) for photos in self._selections]
        except Exception as error:  # quantizers raise errors of all kinds; the other trials go on
            trial.objection = " ".join(f"it failed: {error}".split())[:200]
            self._say(f"{form}, {trial.name}: {trial.objection}")
            return trial
        trial.model = model
        compared = [gate.fidelity(*three) for three in zip(self._expected, found, self._selections, strict=True)]
        trial.compared = {metric.name: metric.value for metric in compared[0]}
        first = gate.objection(compared[0], gate.SELECTION_MARGIN)
        objections = [first, *(_loses_classes(metrics) for metrics in compared[1:])]
        trial.objection = next((objection for objection in objections if objection is not None), None)
        self._say(f"{form}, {trial.name}: cosine {trial.cosine:.4f}{'' if trial.objection is None else ', out'}")
        return trial

    def candidates(self) -> list[cards.Candidate]:
        """All trials for the card; the chosen ones and the rival are timed here, in turns."""
        kept = [*self.winners.values(), *(trial for trial in self.trials if trial.name == RIVAL)]
        timed = {trial: trial.model for trial in kept if trial.model is not None}
        base, *times = _fastest([self._reference, *timed.values()], self._selections[0].pixels)
        for trial, milliseconds in zip(timed, times, strict=True):
            trial.relative_ms = milliseconds / base
            self._say(f"{trial.format}: {trial.name}, {base / milliseconds:.2f} times as fast as fp32")
        return [
            cards.Candidate(
                name=trial.name,
                format=trial.format,
                precision="int8",
                recipe=trial.built.recipe or {} if trial.built and trial.model else {},
                top1_drop=trial.share(gate.DROP),
                agreement=trial.share(gate.AGREEMENT),
                cosine_mean=trial.share(gate.COSINE),
                cosine_min=trial.share(gate.LEAST_COSINE),
                relative_ms=trial.relative_ms,
                outcome=self._outcome(trial),
            )
            for trial in self.trials
        ]

    def _outcome(self, trial: Trial) -> str:
        if trial in self.winners.values():
            return "chosen"
        if trial.name == RIVAL and trial.model is not None:
            return "for comparison" if trial.objection is None else f"for comparison; {trial.objection}"
        return "passed; another is closer to fp32" if trial.objection is None else f"refused: {trial.objection}"


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


def _makers(weights: Weights, photos: npt.NDArray[np.uint8], metadata: dict[str, str]) -> dict[str, Make]:
    """The functions that build the int8 files of each format, and those of the library for comparison."""
    calibrated = cache(lambda alpha: quantize.calibrate(weights, photos, alpha))

    def onnx_file(alpha: float, kept: tuple[str, ...]) -> Built:
        proto = compact.shorten(compact.halve(quantize.quantize(calibrated(alpha), kept)))
        return Built(("onnx", "int8"), (onnx_writer.content(proto, metadata),), _recipe(quantize.METHOD, alpha, kept))

    def openvino_files(alpha: float, kept: tuple[str, ...]) -> Built:
        model = openvino.quantize(openvino.convert(onnx_writer.write(weights, "tokens").proto), photos, alpha, kept)
        openvino.halve_floats(model)
        files = openvino.serialize(model, metadata, fp16=False)
        return Built(("openvino", "int8"), files, _recipe(openvino.METHOD, alpha, kept), (*openvino.TOOLS, "nncf"))

    def library_file(_: float, kept: tuple[str, ...]) -> Built:
        proto = rival(onnx_writer.write(weights).proto, photos, kept)
        return Built(("onnx", "int8"), (onnx_writer.content(proto, metadata),), {"float_layers": list(kept)})

    return {"onnx": onnx_file, "openvino": openvino_files, "rival": library_file}


def _recipe(method: str, alpha: float, kept: Sequence[str]) -> dict[str, object]:
    """For the card. alpha: how much of the activations' range moves into the weights, 0 (none) to 1."""
    return {"method": method, "smooth_quant_alpha": alpha, "float_layers": list(kept)}


def _photos(run: Run) -> tuple[Labelled, Labelled]:
    """Calibration and selection: disjoint photos of the training split."""
    train = run.photos().train
    order = np.random.default_rng(run.recipe.seed).permutation(len(train))
    count = min(CALIBRATION_PHOTOS, len(train) // 2)

    def labelled(what: str, chosen: npt.NDArray[np.int64]) -> Labelled:
        photos = run.decode(train.take(np.sort(chosen)), f"{what} photos")
        return Labelled(photos.pixels, photos.labels, run.recipe.data.head, run.recipe.data.name, "train")

    selected = order[count : count + SELECTION_PHOTOS]
    return labelled("calibration", order[:count]), labelled("selection", selected)


def _by_teacher(run: Run, selection: Labelled) -> list[Labelled]:
    """The same photos with the teacher's own classes, if the run has its head."""
    indices = run.teacher_classes()
    if indices is None:
        return []
    return [replace(selection, labels=indices[selection.labels], head=str(run.recipe.teacher.head))]


def _sensitivity(
    calibrated: quantize.Calibrated, reference: Model, pixels: npt.NDArray[np.uint8], opened: Open
) -> list[cards.Sensitivity]:
    """The effect of int8 in one linear alone, for each linear, worst first."""
    expected = reference.run(pixels, ["embedding"])["embedding"]
    found = []
    for layer in tqdm(sorted(calibrated.ranges), "layers alone in int8", leave=False):
        data = onnx_writer.content(quantize.alone(calibrated, layer), {})
        single = opened(Built(("onnx", "int8"), (data,)))
        cosine = float((single.run(pixels, ["embedding"])["embedding"] * expected).sum(1).mean())
        found.append(cards.Sensitivity(layer=layer, cosine_mean=min(1.0, cosine)))
    return sorted(found, key=lambda row: row.cosine_mean)


def _loses_classes(metrics: list[cards.Metric]) -> str | None:
    """Why a file is rejected because of another head, whose classes may be many and similar; None if it is not."""
    drop = next(metric for metric in metrics if metric.name == gate.DROP)
    if drop.value <= LARGEST_OTHER_DROP:
        return None
    return f"it loses {drop.value:.2%} of top-1 of the head {drop.head} on {drop.n} photos"


def _fastest(models: Sequence[Model], pixels: npt.NDArray[np.uint8]) -> list[float]:
    """Milliseconds of the fastest call of each.

    In turns, one thread, batch 1, so that other load on the machine affects all alike.
    """
    names = list(models[0].session.outputs)
    fastest = [np.inf] * len(models)
    for turn in tqdm(range(ROUNDS + 2), "timing", leave=False):
        photo = pixels[turn % len(pixels)][None]
        for number, model in enumerate(models):
            model.session.run(photo, names)  # loads its weights into the caches
            started = time.perf_counter()
            model.session.run(photo, names)
            if turn >= 2:
                fastest[number] = min(fastest[number], (time.perf_counter() - started) * 1000)
    return fastest


def _answers(model: Model, photos: Labelled) -> Outputs:
    return model.run(photos.pixels, ["embedding", f"logits_{photos.head}"])
