"""int8 by one rule: every linear in int8, then the worst ones in float, one by one, until the file is accurate.

It is accurate if it would pass the gate (`export.gate`) on photos that no figure uses. Layers are ranked by the effect
on the embedding of int8 in that layer alone. Every trial is recorded in the card.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
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
from export.graph import DeployedStudent, Weights, weights_of
from export.photos import Labelled, for_int8
from leap_zoo.bench import take_turns
from leap_zoo.card import Candidate, Format, Search, Sensitivity
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
# A figure of a card's candidate -> the metric that it is.
FIGURES = {
    "top1_drop": gate.DROP,
    "agreement": gate.AGREEMENT,
    "cosine_mean": gate.COSINE,
    "cosine_min": gate.LEAST_COSINE,
}

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
    chosen = []
    for form in tqdm(formats, "int8", leave=False):
        if (trial := rule.run(form, makers[form])) is not None:
            chosen.append(trial)
            if form == "onnx":
                rule.attempt("onnx", makers["rival"], 0.0, trial.kept, RIVAL)
    record = Search(
        dataset=selection.dataset,
        split=selection.split,
        n=len(selection.labels),
        calibration_photos=len(calibration.labels),
        device=cpu_name(),
        isa=list(instruction_sets()),
        threads=THREADS,
        candidates=[trial.record for trial in rule.trials],
        minutes=round((time.monotonic() - started) / 60, 1),
        sensitivity=sensitivity,
    )
    return [trial.built for trial in chosen if trial.built], record


@dataclass(eq=False)
class Trial:
    """A file that was tried. kept: float layers. objection: why it is rejected. Nothing was `built` if it failed."""

    record: Candidate
    kept: tuple[str, ...]
    objection: str | None
    built: Built | None


class Rule:
    """Finds a good int8 file of each format.

    opened: opens built files as a model on one thread. selections: the selection photos with the labels of each
    head; a file that loses more than a point of top-1 with a head after the first is rejected. layers: worst first.
    """

    def __init__(
        self, opened: Open, reference: Model, selections: Sequence[Labelled], layers: Sequence[str], say: Say
    ) -> None:
        self._open, self._reference, self._selections = opened, reference, selections
        self._expected = [gate.answers(reference, photos) for photos in selections]
        self._layers, self._say = layers[:MOST_FLOAT], say
        self.trials: list[Trial] = []

    def run(self, form: Format, make: Make) -> Trial | None:
        """The chosen file of one format; None if none passes."""
        trials = [self.attempt(form, make, alpha, ()) for alpha in SMOOTHING]
        best = max(trials, key=lambda trial: trial.record.cosine_mean or -1.0)
        alpha = SMOOTHING[trials.index(best)]
        while best.objection is not None and best.built is not None and len(best.kept) < len(self._layers):
            best = self.attempt(form, make, alpha, tuple(self._layers[: len(best.kept) + 1]))
        if best.objection is not None:
            return None
        best.record = replace(best.record, outcome="chosen")
        return best

    def attempt(self, form: Format, make: Make, alpha: float, kept: tuple[str, ...], name: str = "") -> Trial:
        """Build a file, compare it with fp32 and time it. name: of a file that is not to be chosen."""
        smoothing = f"smooth {alpha:g}" if alpha else "no smoothing"
        spared = f", {len(kept)} layer{'s' * (len(kept) > 1)} float" if kept else ""
        title, figures, built = name or smoothing + spared, dict[str, float](), None
        try:
            figures, objection = self._measured(self._open(made := make(alpha, kept)))
            built = made
        except Exception as error:  # quantizers raise errors of all kinds; the other trials go on
            objection = " ".join(f"it failed: {error}".split())[:200]
        known = ", ".join(f"{figure} {value:.4f}" for figure, value in figures.items())
        self._say(f"{form}, {title}: {objection or known}")
        if name and built:
            outcome = "for comparison" + (f"; {objection}" if objection else "")
        else:
            outcome = f"refused: {objection}" if objection else "passed; another is closer to fp32"
        record = Candidate(
            name=title,
            format=form,
            precision="int8",
            recipe=(built.recipe if built else None) or {},
            **(dict.fromkeys((*FIGURES, "relative_ms")) | figures),
            outcome=outcome,
        )
        self.trials.append(Trial(record, kept, objection, built))
        return self.trials[-1]

    def _measured(self, model: Model) -> tuple[dict[str, float], str | None]:
        """The figures of a card's candidate, and the reason to reject the file."""
        first, *others = (
            gate.fidelity(expected, gate.answers(model, photos), photos)
            for expected, photos in zip(self._expected, self._selections, strict=True)
        )
        objection = gate.objection(first, gate.SELECTION_MARGIN)
        for drop in (metric for metrics in others for metric in metrics if metric.name == gate.DROP):
            if objection is None and not drop.value <= LARGEST_OTHER_DROP:
                objection = f"it loses {drop.value:.2%} of top-1 of the head {drop.head} on {drop.n} photos"
        found = {metric.name: metric.value for metric in first if np.isfinite(metric.value)}
        # A cosine in float32 may exceed 1 by rounding.
        figures = {key: float(np.clip(found[name], -1, 1)) for key, name in FIGURES.items() if name in found}
        photo, names = self._selections[0].pixels[:1], list(self._reference.session.outputs)
        calls = [partial(each.session.run, photo, names) for each in (model, self._reference)]
        ours, theirs = map(min, take_turns(calls, 0, rounds=ROUNDS))
        return figures | {"relative_ms": ours / theirs}, objection


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
    """The functions that build the int8 files of each format, and those of the library for comparison.

    alpha: how much of the activations' range moves into the weights, 0 (none) to 1.
    """
    calibrated = cache(lambda alpha: quantize.calibrate(weights, photos, alpha))

    def recipe(method: str, alpha: float, kept: Sequence[str]) -> dict[str, object]:
        return {"method": method, "smooth_quant_alpha": alpha, "float_layers": list(kept)}

    def onnx_file(alpha: float, kept: tuple[str, ...]) -> Built:
        proto = onnx_writer.shorten(quantize.quantize(calibrated(alpha), kept))
        return Built(("onnx", "int8"), (onnx_writer.content(proto, metadata),), recipe(quantize.METHOD, alpha, kept))

    def openvino_files(alpha: float, kept: tuple[str, ...]) -> Built:
        model = openvino.quantize(openvino.convert(onnx_writer.write(weights, "tokens")), photos, alpha, kept)
        openvino.halve_floats(model)
        files = openvino.serialize(model, metadata, fp16=False)
        return Built(("openvino", "int8"), files, recipe(openvino.METHOD, alpha, kept), (*openvino.TOOLS, "nncf"))

    def library_file(_: float, kept: tuple[str, ...]) -> Built:
        proto = rival(onnx_writer.write(weights), photos, kept)
        return Built(("onnx", "int8"), (onnx_writer.content(proto, metadata),), {"float_layers": list(kept)})

    return {"onnx": onnx_file, "openvino": openvino_files, "rival": library_file}


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
