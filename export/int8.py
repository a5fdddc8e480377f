"""int8 by one rule: quantize every linear; while the file is not accurate enough, keep the most sensitive one in float.

It is accurate if it would pass the gate (`export.gate`) on photos that no figure uses. Layers are ranked by the effect
on the embedding of int8 in that layer alone. Every trial is recorded in the card.

ONNX files are static, calibrated on photos: every linear except small ones at the end is uint8 x int8 per channel;
attention products, Softmax, LayerNorm, Gelu and the residual stream stay float. The factors of SmoothQuant (arXiv
2211.10438) cost nothing at run time: they are folded into the LayerNorm before qkv and fc1, and into V before proj; a
general quantizer leaves them as separate nodes. OpenVINO files are made by NNCF.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_static
from tqdm import tqdm

from export import gate, onnx_writer, openvino
from export.card import Built, metadata
from export.graph import F32, DeployedStudent, Weights, weights_of
from export.onnx_writer import PIXELS, Range, write
from export.photos import Labelled, for_int8
from leap_zoo.bench import take_turns
from leap_zoo.card import Candidate, Format, Search, Sensitivity
from leap_zoo.device import cpu_name, instruction_sets
from leap_zoo.model import Model
from train.run import Run

METHOD = "static QDQ, int8 weights per channel, folded SmoothQuant, ranges by extremes"
FLOAT_BELOW = 64 * 1024  # weights: smaller linears with a single row gain nothing
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

Pixels = npt.NDArray[np.uint8]  # photos (N, H, W, 3)
Make = Callable[[float, tuple[str, ...]], Built]  # alpha, float layers -> the files
Open = Callable[[Built], Model]
Say = Callable[[str], None]
Seen = dict[str, tuple[F32, F32]]  # linear -> least and largest value (or 0) of each channel of its input


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
    alone = calibrate(weights, calibration.pixels, SENSITIVITY_ALPHA)
    sensitivity = _sensitivity(alone, reference, selection.pixels[:SENSITIVITY_PHOTOS], opened)
    rule = Rule(opened, reference, selections, [row.layer for row in sensitivity], say)
    chosen = []
    for form in tqdm(formats, "int8", leave=False):
        trial = rule.run(form, makers[form])
        if trial and trial.built:
            chosen.append(trial.built)
            if form == "onnx":
                rule.attempt(form, makers["rival"], 0.0, trial.kept, RIVAL)
    return chosen, Search(
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
        self._layers, self._say = tuple(layers[:MOST_FLOAT]), say
        self.trials: list[Trial] = []

    def run(self, form: Format, make: Make) -> Trial | None:
        """The chosen file of one format; None if none passes."""
        trials = [self.attempt(form, make, alpha, ()) for alpha in SMOOTHING]
        best = max(trials, key=lambda trial: (trial.objection is None, trial.record.cosine_mean or -1.0))
        alpha = SMOOTHING[trials.index(best)]
        while best.objection and best.built and len(best.kept) < len(self._layers):
            best = self.attempt(form, make, alpha, self._layers[: len(best.kept) + 1])
        if best.objection:
            return None
        best.record = msgspec.structs.replace(best.record, outcome="chosen")
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
        for drop in (compared[gate.DROP] for compared in others):
            if objection is None and not drop.value <= LARGEST_OTHER_DROP:
                objection = f"it loses {drop.value:.2%} of top-1 of the head {drop.head} on {drop.n} photos"
        found = {key: first[name].value for key, name in FIGURES.items()}
        # A cosine in float32 may exceed 1 by rounding.
        figures = {key: float(np.clip(value, -1, 1)) for key, value in found.items() if np.isfinite(value)}
        photo, names = self._selections[0].pixels[:1], list(self._reference.session.outputs)
        calls = [partial(each.session.run, photo, names) for each in (model, self._reference)]
        ours, theirs = map(min, take_turns(calls, 0, rounds=ROUNDS))
        return figures | {"relative_ms": ours / theirs}, objection


def rival(proto: onnx.ModelProto, photos: Pixels, kept: Sequence[str]) -> onnx.ModelProto:
    """The fp32 graph, quantized by ONNX Runtime with min-max ranges; the linears `kept` and attention stay float."""
    batches = ({"image": photo[None]} for photo in photos)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        quantize_static(
            proto,
            target,
            SimpleNamespace(get_next=lambda: next(batches, None)),
            op_types_to_quantize=["Gemm"],
            nodes_to_exclude=list(kept),
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


def _makers(weights: Weights, photos: Pixels, metadata: dict[str, str]) -> dict[str, Make]:
    """The functions that build the int8 files of each format, and those of the library for comparison.

    alpha: how much of the activations' range moves into the weights, 0 (none) to 1.
    """
    calibrated = cache(lambda alpha: calibrate(weights, photos, alpha))

    def recipe(method: str, alpha: float, kept: Sequence[str]) -> dict[str, object]:
        return {"method": method, "smooth_quant_alpha": alpha, "float_layers": list(kept)}

    def onnx_file(alpha: float, kept: tuple[str, ...]) -> Built:
        proto = onnx_writer.shorten(quantize(calibrated(alpha), kept))
        return Built(("onnx", "int8"), (onnx_writer.content(proto, metadata),), recipe(METHOD, alpha, kept))

    def openvino_files(alpha: float, kept: tuple[str, ...]) -> Built:
        model = openvino.quantize(openvino.convert(write(weights, "tokens")), photos, alpha, kept)
        openvino.halve_floats(model)
        files = openvino.serialize(model, metadata, fp16=False)
        return Built(("openvino", "int8"), files, recipe(openvino.METHOD, alpha, kept), (*openvino.TOOLS, "nncf"))

    def library_file(_: float, kept: tuple[str, ...]) -> Built:
        proto = rival(write(weights), photos, kept)
        return Built(("onnx", "int8"), (onnx_writer.content(proto, metadata),), {"float_layers": list(kept)})

    return {"onnx": onnx_file, "openvino": openvino_files, "rival": library_file}


@dataclass(frozen=True)
class Calibrated:
    """Smoothed weights, and the input range of each linear on the calibration photos."""

    weights: Weights
    ranges: dict[str, Range]


def calibrate(weights: Weights, photos: Pixels, alpha: float) -> Calibrated:
    """Measure the inputs of each linear on photos, one at a time; smooth by `alpha`; measure again."""
    if alpha > 0:
        weights = _smooth(weights, _observe(weights, photos), alpha)
    ranges = {name: (float(low.min()), float(high.max())) for name, (low, high) in _observe(weights, photos).items()}
    return Calibrated(weights, ranges | {"embed": PIXELS})


def quantize(calibrated: Calibrated, kept: Sequence[str] = ()) -> onnx.ModelProto:
    """The int8 graph; the linears `kept` are computed in float, with weights in float16."""
    weights = calibrated.weights
    small = (name for name in ("space", *weights.reads) if weights.pairs[name][0].size < FLOAT_BELOW)
    skipped = {*kept, *small}
    ranges = {name: seen for name, seen in calibrated.ranges.items() if name not in skipped}
    return write(weights, "rows", ranges, half=True, split_heads=True)


def _sensitivity(calibrated: Calibrated, reference: Model, pixels: Pixels, opened: Open) -> list[Sensitivity]:
    """The effect of int8 in one linear alone, for each linear, worst first."""
    expected = reference.run(pixels, ["embedding"])["embedding"]
    found = []
    for layer, seen in tqdm(sorted(calibrated.ranges.items()), "layers alone in int8", leave=False):
        proto = write(calibrated.weights, "rows", {layer: seen})
        single = opened(Built(("onnx", "int8"), (onnx_writer.content(proto, {}),)))
        cosine = float((single.run(pixels, ["embedding"])["embedding"] * expected).sum(1).mean())
        found.append(Sensitivity(layer=layer, cosine_mean=min(1.0, cosine)))
    return sorted(found, key=lambda row: row.cosine_mean)


def _observe(weights: Weights, photos: Pixels) -> Seen:
    """The inputs of the linears; memory does not grow with the photos."""
    proto = write(weights, "rows")
    # Not of patches, which are bytes.
    reads = {node.name: node.input[0] for node in proto.graph.node if node.op_type == "Gemm" and node.name != "embed"}
    tensors = sorted(set(reads.values()))
    proto.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in tensors)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seen: Seen = {}
    for photo in photos:
        for tensor, value in zip(tensors, session.run(tensors, {"image": photo[None]}), strict=True):
            low, high = seen.get(tensor, (np.zeros_like(value[0]), np.zeros_like(value[0])))
            seen[tensor] = np.minimum(low, value.min(0)), np.maximum(high, value.max(0))
    return {name: seen[tensor] for name, tensor in reads.items()}


def _smooth(weights: Weights, seen: Seen, alpha: float) -> Weights:
    """The same graph, with factors folded in on both sides of each linear's input."""
    pairs = dict(weights.pairs)
    for name in (f"blocks.{rank}" for rank in range(weights.depth)):
        inputs = seen[f"{name}.qkv" if f"{name}.qkv" in seen else f"{name}.kv"]  # the last block may have kv
        for norm, part, values in (("norm1", "qkv", inputs), ("norm2", "fc1", seen[f"{name}.fc1"])):
            (gain, shift), (weight, bias) = pairs[f"{name}.{norm}"], pairs[f"{name}.{part}"]
            factors = _factors(values, weight, alpha)
            pairs[f"{name}.{norm}"] = gain / factors, shift / factors
            pairs[f"{name}.{part}"] = weight * factors[:, None], bias
        (weight, bias), (proj, rest) = pairs[f"{name}.qkv"], pairs[f"{name}.proj"]
        factors = _factors(seen[f"{name}.proj"], proj, alpha)
        into_v = np.concatenate([np.ones(2 * len(factors), np.float32), 1 / factors])
        pairs[f"{name}.qkv"] = weight * into_v, bias * into_v
        pairs[f"{name}.proj"] = proj * factors[:, None], rest
    return replace(weights, pairs=pairs)


def _factors(seen: tuple[F32, F32], weight: F32, alpha: float) -> F32:
    """The factors by which activations are divided and weights multiplied, per channel; their geometric mean is 1."""
    largest = np.maximum(-seen[0], seen[1])
    factors = np.maximum(largest, 1e-5) ** alpha / np.maximum(np.abs(weight).max(1), 1e-5) ** (1 - alpha)
    centred: F32 = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return centred
