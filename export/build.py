"""From a run to files: the float files, and the int8 files that a search finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
from onnx import ModelProto
from tqdm import tqdm

from export import compact, describe, gate, int8, onnx_writer, openvino, quantize
from export.built import DEFAULT, NAMES, Built, Kind
from export.formats import executorch
from export.gate import Labelled
from export.golden import draw
from export.graph import DeployedStudent, Weights, weights_of
from leap_zoo.card import Format, Search, Sensitivity
from leap_zoo.model import Model
from train.run import Run

CALIBRATION_PHOTOS = 300
SELECTION_PHOTOS = 500  # the search measures fidelity on them
SENSITIVITY_PHOTOS = 64
SENSITIVITY_ALPHA = 0.5

Say = Callable[[str], None]


def build(run: Run, model: DeployedStudent, kinds: Collection[Kind], say: Say) -> tuple[list[Built], Search | None]:
    """The files of `kinds`, always with the fp32 ONNX file first, and the record of the search if there was one.

    Raises GateFailed if the fp32 file differs from torch, ExportError for a student that is not a plain ViT.
    """
    say("building the fp32 graph")
    metadata = describe.metadata(run)
    weights = weights_of(model)
    proto = onnx_writer.finish(onnx_writer.write(weights).proto, metadata)
    reference = Built(("onnx", "fp32"), (proto.SerializeToString(deterministic=True),))
    # Before quantization, which takes minutes, and whose errors do not explain a NaN.
    worst = gate.check_parity(open_built(run, model, reference), model, draw(run.recipe.preprocessing.size))
    say(f"largest difference from torch at batch 1, 2, 5: {worst:.1e} (limit: {gate.PARITY_TOLERANCE:g})")
    forms = [reference]
    if ("onnx", "fp16") in kinds:
        half = onnx_writer.finish(compact.halve(proto), metadata).SerializeToString(deterministic=True)
        forms.append(Built(("onnx", "fp16"), (half,)))
    if ("openvino", "fp16") in kinds:
        ir = openvino.convert(onnx_writer.write(weights, "tokens").proto)
        files = openvino.serialize(ir, metadata, fp16=True)
        forms.append(Built(("openvino", "fp16"), files, tools=("torch", "timm", "onnx", "openvino")))
    for kind in kinds:
        if kind[0] == "executorch":
            say(f"building the ExecuTorch program, {kind[1]}")
            program = executorch.build(model, metadata, int8=kind[1] == "int8")
            forms.append(Built(kind, (program,), executorch.INT8 if kind[1] == "int8" else None, executorch.TOOLS))
    formats = [kind[0] for kind in DEFAULT if kind[1] == "int8" and kind in kinds]
    if not formats:
        return forms, None
    winners, account = _search(run, model, weights, reference, formats, say)
    order = list(NAMES)
    return sorted([*forms, *winners], key=lambda form: order.index(form.kind)), account


def open_built(run: Run, model: DeployedStudent, built: Built, threads: int | None = None) -> Model:
    """Built files as a model, without a zoo."""
    return Model.open(describe.card(run, model, [built.artifact]), built.artifact, built.read, threads)


def _search(
    run: Run, model: DeployedStudent, weights: Weights, reference: Built, formats: list[Format], say: Say
) -> tuple[list[Built], Search]:
    """The int8 file of each format for which one passes, and the record of the search."""
    started = time.monotonic()
    calibration, selection = _photos(run)
    say(f"int8: calibrated on {len(calibration.labels)} photos of the training split, "
        f"compared on {len(selection.labels)} others")  # fmt: skip
    makers = _makers(weights, calibration.pixels, describe.metadata(run))
    fp32 = open_built(run, model, reference, int8.THREADS)
    sensitivity = _sensitivity(run, model, quantize.calibrate(weights, calibration.pixels, SENSITIVITY_ALPHA), fp32,
                               selection)  # fmt: skip
    search = int8.Search(
        lambda built: open_built(run, model, built, int8.THREADS),
        fp32,
        [selection, *_by_teacher(run, selection)],
        [layer.layer for layer in sensitivity],
        say,
    )
    for form in tqdm(formats, "int8", leave=False):
        kept = search.run(form, makers[form])
        if form == "onnx" and kept is not None:
            search.attempt("onnx", makers["rival"], 0.0, kept, int8.RIVAL)
    account = search.account(len(calibration.labels), sensitivity, time.monotonic() - started)
    return [trial.built for trial in search.winners.values() if trial.built], account


def _makers(weights: Weights, photos: npt.NDArray[np.uint8], metadata: dict[str, str]) -> dict[str, int8.Make]:
    """The functions that build the int8 files of each format, and those of the library for comparison."""
    calibrated = cache(lambda alpha: quantize.calibrate(weights, photos, alpha))

    def ours(alpha: float, kept: tuple[str, ...]) -> Built:
        recipe = quantize.Recipe(smooth_quant_alpha=alpha, float_layers=kept)
        proto = compact.shorten(compact.halve(quantize.quantize(calibrated(alpha), recipe)))
        return Built(("onnx", "int8"), (_bytes(proto, metadata),), recipe.as_dict())

    def nncf(alpha: float, kept: tuple[str, ...]) -> Built:
        recipe = openvino.Recipe(smooth_quant_alpha=alpha, float_layers=kept)
        model = openvino.quantize(openvino.convert(onnx_writer.write(weights, "tokens").proto), photos, recipe)
        openvino.halve_floats(model)
        files = openvino.serialize(model, metadata, fp16=False)
        return Built(("openvino", "int8"), files, recipe.as_dict(), ("torch", "timm", "onnx", "openvino", "nncf"))

    def library(_: float, kept: tuple[str, ...]) -> Built:
        proto = int8.rival(onnx_writer.write(weights).proto, photos, kept)
        return Built(("onnx", "int8"), (_bytes(proto, metadata),), {"float_layers": list(kept)})

    return {"onnx": ours, "openvino": nncf, "rival": library}


def _bytes(proto: ModelProto, metadata: dict[str, str]) -> bytes:
    data: bytes = onnx_writer.finish(proto, metadata).SerializeToString(deterministic=True)
    return data


def _photos(run: Run) -> tuple[Labelled, Labelled]:
    """Calibration and selection: disjoint photos of the training split."""
    train = run.photos().train
    order = np.random.default_rng(run.recipe.seed).permutation(len(train))
    count = min(CALIBRATION_PHOTOS, len(train) // 2)
    parts = []
    for what, chosen in (
        ("calibration", order[:count]),
        ("selection", order[count : count + SELECTION_PHOTOS]),
    ):
        photos = run.decode(train.take(np.sort(chosen)), f"{what} photos")
        parts.append(Labelled(photos.pixels, photos.labels, run.recipe.data.head, run.recipe.data.name, "train"))
    return parts[0], parts[1]


def _by_teacher(run: Run, selection: Labelled) -> list[Labelled]:
    """The same photos with the teacher's own classes, if the run has its head."""
    indices = run.teacher_classes()
    return (
        []
        if indices is None
        else [replace(selection, labels=indices[selection.labels], head=str(run.recipe.teacher.head))]
    )


def _sensitivity(
    run: Run, model: DeployedStudent, calibrated: quantize.Calibrated, reference: Model, selection: Labelled
) -> list[Sensitivity]:
    """The effect of int8 in one linear alone, for each linear, worst first."""
    pixels = selection.pixels[:SENSITIVITY_PHOTOS]
    expected = reference.run(pixels, ["embedding"])["embedding"]
    found = []
    for layer in tqdm(sorted(calibrated.ranges), "layers alone in int8", leave=False):
        data = _bytes(quantize.alone(calibrated, layer), {})
        single = open_built(run, model, Built(("onnx", "int8"), (data,)), int8.THREADS)
        cosine = float((single.run(pixels, ["embedding"])["embedding"] * expected).sum(1).mean())
        found.append(Sensitivity(layer=layer, cosine_mean=min(1.0, cosine)))
    return sorted(found, key=lambda row: row.cosine_mean)
