"""From a run to files, in memory: the float files, and the int8 files that a search finds."""

from __future__ import annotations

from collections.abc import Callable, Collection

from export import card, compact, gate, int8, onnx_writer, openvino
from export.built import DEFAULT, NAMES, Built, Kind
from export.formats import executorch
from export.golden import draw
from export.graph import DeployedStudent, weights_of
from leap_zoo.card import Search
from leap_zoo.model import Model
from train.run import Run

Say = Callable[[str], None]


def build(run: Run, model: DeployedStudent, kinds: Collection[Kind], say: Say) -> tuple[list[Built], Search | None]:
    """The files of `kinds`, always with the fp32 ONNX file first, and the record of the search if there was one.

    Raises GateFailed if the fp32 file differs from torch, ExportError for a student that is not a plain ViT.
    """
    say("building the fp32 graph")
    metadata = card.metadata(run)
    weights = weights_of(model)
    proto = onnx_writer.write(weights).proto
    reference = Built(("onnx", "fp32"), (onnx_writer.content(proto, metadata),))
    # Before quantization, which takes minutes, and whose errors do not explain a NaN.
    worst = gate.check_parity(open_built(run, model, reference), model, draw(run.recipe.preprocessing.size))
    say(f"largest difference from torch at batch 1, 2, 5: {worst:.1e} (limit: {gate.PARITY_TOLERANCE:g})")
    forms = [reference]
    if ("onnx", "fp16") in kinds:
        forms.append(Built(("onnx", "fp16"), (onnx_writer.content(compact.halve(proto), metadata),)))
    if ("openvino", "fp16") in kinds:
        ir = openvino.convert(onnx_writer.write(weights, "tokens").proto)
        forms.append(Built(("openvino", "fp16"), openvino.serialize(ir, metadata, fp16=True), tools=openvino.TOOLS))
    for kind in kinds:
        if kind[0] == "executorch":
            say(f"building the ExecuTorch program, {kind[1]}")
            program = executorch.build(model, metadata, int8=kind[1] == "int8")
            forms.append(Built(kind, (program,), executorch.INT8 if kind[1] == "int8" else None, executorch.TOOLS))
    search = None
    formats = [kind[0] for kind in DEFAULT if kind[1] == "int8" and kind in kinds]
    if formats:
        fp32 = open_built(run, model, reference, int8.THREADS)
        winners, search = int8.search(
            run, weights, metadata, fp32, formats, lambda built: open_built(run, model, built, int8.THREADS), say
        )
        forms += winners
    order = list(NAMES)
    return sorted(forms, key=lambda form: order.index(form.kind)), search


def open_built(run: Run, model: DeployedStudent, built: Built, threads: int | None = None) -> Model:
    """Built files as a model, without a zoo."""
    return Model.open(card.card(run, model, [built.artifact]), built.artifact, built.read, threads)
