"""int8 by one rule: every linear in int8, then the worst ones in float, one by one, until the file is accurate.

It is accurate if it would pass the gate (`export.gate`) on photos that no figure uses. Layers are ranked by the effect
on the embedding of int8 in that layer alone. Every attempt is recorded in the card.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import onnx
from msgspec.structs import replace
from onnxruntime.quantization import QuantType, quantize_static
from tqdm import tqdm

from export import gate, onnx_writer, openvino, quantize
from export.card import Built, metadata
from export.gate import Outputs
from export.graph import DeployedStudent, Weights, weights_of
from export.photos import Labelled, for_int8
from leap_zoo.card import Candidate, Format, Metric, Search, Sensitivity
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.model import Model
from train.run import Run

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
    run: Run, model: DeployedStudent, fp32: Built, formats: Sequence[Format], say: Say
) -> tuple[list[Built], Search]:
    """The int8 file of each format for which one passes, and the record for the card. fp32: the ONNX file."""

    def opened(built: Built) -> Model:
        return built.open(run, model, THREADS)

    started = time.monotonic()
    calibration, selections = for_int8(run)
    selection, weights, reference = selections[0], weights_of(model), opened(fp32)
    say(
        f"int8: calibrated on {len(calibration.labels)} photos of the training split, "
        f"compared on {len(selection.labels)} others"
    )
    makers = _makers(weights, calibration.pixels, metadata(run))
    alone = quantize.calibrate(weights, calibration.pixels, SENSITIVITY_ALPHA)
    sensitivity = _sensitivity(alone, reference, selection.pixels[:SENSITIVITY_PHOTOS], opened)
    rule = Rule(opened, reference, selections, [row.layer for row in sensitivity], say)
    for form in tqdm(formats, "int8", leave=False):
        kept = rule.run(form, makers[form])
        if form == "onnx" and kept is not None:
            rule.attempt("onnx", makers["rival"], 0.0, kept, RIVAL)
    record = Search(
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
    return [trial.built for trial in rule.chosen if trial.built], record


@dataclass(eq=False)
class Trial:
    """A file that was tried, for the card and, if it could be built, to run. `objection`: why it was rejected."""

    record: Candidate
    objection: str | None
    built: Built | None = None
    model: Model | None = None

    @property
    def cosine(self) -> float:
        """Mean cosine of its embeddings to those of fp32; -1 if there are none."""
        return -1.0 if self.record.cosine_mean is None else self.record.cosine_mean


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
        self.chosen: list[Trial] = []

    def run(self, form: Format, make: Make) -> tuple[str, ...] | None:
        """Try one format; returns the layers that the chosen file keeps in float, or None if no file passes."""
        trials = [self.attempt(form, make, alpha, ()) for alpha in SMOOTHING]
        alpha, best = max(zip(SMOOTHING, trials, strict=True), key=lambda pair: pair[1].cosine)
        kept: tuple[str, ...] = ()
        while best.objection is not None and best.model is not None and len(kept) < len(self._layers):
            kept = (*kept, self._layers[len(kept)])
            best = self.attempt(form, make, alpha, kept)
        if best.objection is not None:
            return None
        self.chosen.append(best)
        return kept

    def attempt(self, form: Format, make: Make, alpha: float, kept: tuple[str, ...], name: str | None = None) -> Trial:
        """Build a file and compare it with fp32."""
        smoothing = f"smooth {alpha:g}" if alpha else "no smoothing"
        spared = f", {len(kept)} layer{'s' * (len(kept) > 1)} float" if kept else ""
        name = name or smoothing + spared
        try:
            trial = self._compared(form, name, make(alpha, kept))
            self._say(f"{form}, {name}: cosine {trial.cosine:.4f}{'' if trial.objection is None else ', out'}")
        except Exception as error:  # quantizers raise errors of all kinds; the other trials go on
            trial = Trial(_record(form, name), " ".join(f"it failed: {error}".split())[:200])
            self._say(f"{form}, {name}: {trial.objection}")
        self.trials.append(trial)
        return trial

    def _compared(self, form: Format, name: str, built: Built) -> Trial:
        model = self._open(built)
        found = [_answers(model, photos) for photos in self._selections]
        compared = [gate.fidelity(*three) for three in zip(self._expected, found, self._selections, strict=True)]
        objections = [gate.objection(compared[0], gate.SELECTION_MARGIN), *map(_loses_classes, compared[1:])]
        objection = next((each for each in objections if each is not None), None)
        return Trial(_record(form, name, built.recipe, compared[0]), objection, built, model)

    def candidates(self) -> list[Candidate]:
        """All trials for the card; the chosen ones and the rival are timed here, in turns."""
        timed = [each for each in self.trials if each.model and (each in self.chosen or each.record.name == RIVAL)]
        models = [self._reference, *(trial.model for trial in timed if trial.model)]
        base, *times = _fastest(models, self._selections[0].pixels)
        for trial, milliseconds in zip(timed, times, strict=True):
            trial.record = replace(trial.record, relative_ms=milliseconds / base)
            self._say(f"{trial.record.format}: {trial.record.name}, {base / milliseconds:.2f} times as fast as fp32")
        return [replace(trial.record, outcome=self._outcome(trial)) for trial in self.trials]

    def _outcome(self, trial: Trial) -> str:
        if trial in self.chosen:
            return "chosen"
        if trial.record.name == RIVAL and trial.model is not None:
            return "for comparison" if trial.objection is None else f"for comparison; {trial.objection}"
        return "passed; another is closer to fp32" if trial.objection is None else f"refused: {trial.objection}"


def _record(
    form: Format, name: str, recipe: dict[str, object] | None = None, compared: Sequence[Metric] = ()
) -> Candidate:
    """For the card, without time and outcome yet."""
    # A cosine in float32 may exceed 1 by rounding.
    shares = {metric.name: float(np.clip(metric.value, -1, 1)) for metric in compared if np.isfinite(metric.value)}
    return Candidate(
        name=name,
        format=form,
        precision="int8",
        recipe=recipe or {},
        top1_drop=shares.get(gate.DROP),
        agreement=shares.get(gate.AGREEMENT),
        cosine_mean=shares.get(gate.COSINE),
        cosine_min=shares.get(gate.LEAST_COSINE),
        relative_ms=None,
        outcome="",
    )


def rival(proto: onnx.ModelProto, photos: npt.NDArray[np.uint8], kept: Sequence[str]) -> onnx.ModelProto:
    """The fp32 graph, quantized by ONNX Runtime with min-max ranges on photos uint8 (N, H, W, 3).

    kept: linears that stay float. Attention also stays float, as in this project's files.
    """
    batches = ({"image": photo[None]} for photo in photos)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(proto, source)
        quantize_static(
            source,
            target,
            SimpleNamespace(get_next=lambda: next(batches, None)),
            op_types_to_quantize=["Gemm"],
            nodes_to_exclude=list(kept),
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


def _makers(weights: Weights, photos: npt.NDArray[np.uint8], metadata: dict[str, str]) -> dict[str, Make]:
    """The functions that build the int8 files of each format, and those of the library for comparison."""
    calibrated = cache(lambda alpha: quantize.calibrate(weights, photos, alpha))

    def onnx_file(alpha: float, kept: tuple[str, ...]) -> Built:
        proto = onnx_writer.shorten(quantize.quantize(calibrated(alpha), kept))
        return Built(("onnx", "int8"), (onnx_writer.content(proto, metadata),), _recipe(quantize.METHOD, alpha, kept))

    def openvino_files(alpha: float, kept: tuple[str, ...]) -> Built:
        model = openvino.quantize(openvino.convert(onnx_writer.write(weights, "tokens")), photos, alpha, kept)
        openvino.halve_floats(model)
        files = openvino.serialize(model, metadata, fp16=False)
        return Built(("openvino", "int8"), files, _recipe(openvino.METHOD, alpha, kept), (*openvino.TOOLS, "nncf"))

    def library_file(_: float, kept: tuple[str, ...]) -> Built:
        proto = rival(onnx_writer.write(weights), photos, kept)
        return Built(("onnx", "int8"), (onnx_writer.content(proto, metadata),), {"float_layers": list(kept)})

    return {"onnx": onnx_file, "openvino": openvino_files, "rival": library_file}


def _recipe(method: str, alpha: float, kept: Sequence[str]) -> dict[str, object]:
    """For the card. alpha: how much of the activations' range moves into the weights, 0 (none) to 1."""
    return {"method": method, "smooth_quant_alpha": alpha, "float_layers": list(kept)}


def _sensitivity(
    calibrated: quantize.Calibrated, reference: Model, pixels: npt.NDArray[np.uint8], opened: Open
) -> list[Sensitivity]:
    """The effect of int8 in one linear alone, for each linear, worst first."""
    expected = reference.run(pixels, ["embedding"])["embedding"]
    found = []
    for layer, seen in tqdm(sorted(calibrated.ranges.items()), "layers alone in int8", leave=False):
        proto = onnx_writer.write(calibrated.weights, "rows", {layer: seen})
        single = opened(Built(("onnx", "int8"), (onnx_writer.content(proto, {}),)))
        cosine = float((single.run(pixels, ["embedding"])["embedding"] * expected).sum(1).mean())
        found.append(Sensitivity(layer=layer, cosine_mean=min(1.0, cosine)))
    return sorted(found, key=lambda row: row.cosine_mean)


def _loses_classes(metrics: list[Metric]) -> str | None:
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
