"""From a run to files: the float forms, and the int8 forms that a search finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from export import describe, fp16, onnx, openvino, search, verify
from export.built import NAMES, Built, Kind
from export.golden import draw
from export.graph import DeployedStudent
from export.quantize import alone
from export.verify import Labelled
from export.ways import Ways
from export.weights import Weights, weights_of
from leap_zoo.card import Search, Sensitivity
from leap_zoo.model import Model
from train.run import Run

CALIBRATION_PHOTOS = 300
SELECTION_PHOTOS = 500  # the search measures fidelity on them
SENSITIVITY_PHOTOS = 64
SENSITIVITY_ALPHA = 0.5

Say = Callable[[str], None]


def build(
    run: Run, model: DeployedStudent, kinds: Collection[Kind], minutes: float, say: Say
) -> tuple[list[Built], Search | None]:
    """The files of `kinds`, the fp32 ONNX file first in any case, and the account of the search if there was one.

    Raises GateFailed when the fp32 file is not what torch computes, ExportError for a student that is no plain ViT.
    """
    say("building the fp32 graph")
    metadata = describe.metadata(run)
    weights = weights_of(model)
    proto = onnx.finish(onnx.write(weights).proto, metadata)
    reference = Built(("onnx", "fp32"), (proto.SerializeToString(deterministic=True),))
    # Before the quantisation, which takes minutes, and which a NaN makes fail in ways that explain nothing.
    worst = verify.check_parity(open_built(run, model, reference), model, draw(run.recipe.preprocessing.size))
    say(f"against torch at batch 1, 2, 5 it differs by {worst:.1e} at most ({verify.PARITY_TOLERANCE:g} allowed)")
    forms = [reference]
    if ("onnx", "fp16") in kinds:
        half = onnx.finish(fp16.build(proto), metadata).SerializeToString(deterministic=True)
        forms.append(Built(("onnx", "fp16"), (half,)))
    if ("openvino", "fp16") in kinds:
        ir = openvino.convert(onnx.write(weights, "tokens").proto)
        files = openvino.serialize(ir, metadata, fp16=True)
        forms.append(Built(("openvino", "fp16"), files, tools=("torch", "timm", "onnx", "openvino")))
    formats = [form for form, precision in NAMES if precision == "int8" and (form, precision) in kinds]
    if not formats:
        return forms, None
    winners, account = _search(run, model, weights, reference, formats, minutes, say)
    order = list(NAMES)
    return sorted([*forms, *winners], key=lambda form: order.index(form.kind)), account


def open_built(run: Run, model: DeployedStudent, built: Built, threads: int | None = None) -> Model:
    """Built files as a model, without a zoo around them."""
    artifact = built.artifact()
    return Model.open(describe.card(run, model, [artifact], ("golden.npz", b"none yet")), artifact, built.read, threads)


def _search(
    run: Run,
    model: DeployedStudent,
    weights: Weights,
    reference: Built,
    formats: list[str],
    minutes: float,
    say: Say,
) -> tuple[list[Built], Search]:
    started = time.monotonic()
    calibration, selection = _photos(run)
    say(f"looking for the fastest good int8: calibrated on {len(calibration.labels)} photos of the training split, "
        f"compared on {len(selection.labels)} others")  # fmt: skip
    ways = Ways(weights, calibration.pixels, describe.metadata(run))
    fp32 = open_built(run, model, reference, search.THREADS)
    sensitivity = _sensitivity(run, model, ways, fp32, selection)
    tried = [
        way
        for form in formats
        for way in (ways.onnx([s.layer for s in sensitivity]) if form == "onnx" else ways.openvino())
    ]
    winners, candidates = search.search(
        tried,
        lambda built: open_built(run, model, built, search.THREADS),
        fp32,
        selection,
        minutes,
        say,
        _by_teacher(run, selection),
    )
    spent = round((time.monotonic() - started) / 60, 1)
    account = search.describe(candidates, sensitivity, selection, len(calibration.labels), spent)
    return list(winners.values()), account


def _photos(run: Run) -> tuple[Labelled, Labelled]:
    """Calibration and selection: photos of the training split, none in both."""
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
    """The same photos with the teacher's own classes, where the run has its head."""
    indices = run.teacher_classes()
    return (
        []
        if indices is None
        else [replace(selection, labels=indices[selection.labels], head=str(run.recipe.teacher.head))]
    )


def _sensitivity(
    run: Run, model: DeployedStudent, ways: Ways, reference: Model, selection: Labelled
) -> list[Sensitivity]:
    """What int8 in one linear alone does, the worst first."""
    pixels = selection.pixels[:SENSITIVITY_PHOTOS]
    expected = reference.run(pixels, ["embedding"])["embedding"]
    calibrated = ways.calibrated(SENSITIVITY_ALPHA)
    found = []
    for layer in tqdm(sorted(calibrated.ranges), "layers alone in int8", leave=False):
        data = onnx.finish(alone(calibrated, layer), {}).SerializeToString(deterministic=True)
        single = open_built(run, model, Built(("onnx", "int8"), (data,)), search.THREADS)
        cosine = float((single.run(pixels, ["embedding"])["embedding"] * expected).sum(1).mean())
        found.append(Sensitivity(layer=layer, cosine_mean=min(1.0, cosine)))
    return sorted(found, key=lambda row: row.cosine_mean)
