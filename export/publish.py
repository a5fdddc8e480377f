"""From run folder to zoo: build in memory, measure through `leap_zoo`, then write once, check and move into place."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from msgspec.structs import replace

from export import card as cards
from export import doubt, gate, int8, onnx_writer, openvino, text
from export.card import DEFAULT, NAMES, Built, Kind
from export.formats import executorch, timm
from export.gate import GateFailed
from export.golden import draw, file_of, golden_bytes, golden_file
from export.graph import DeployedStudent, weights_of
from export.photos import NO_MORE, MorePhotos, for_gate
from export.zoo import list_card, replacing
from leap_zoo.bench import Plan, bench
from leap_zoo.card import File, ModelCard, Search
from leap_zoo.loading import choose_artifact
from leap_zoo.model import Model
from leap_zoo.verify import verify as verify_published
from train.run import Run

REFERENCE = NAMES["onnx", "fp32"]
TIMING = Plan(seconds=2.0)  # of each file, for the card

Say = Callable[[str], None]


def publish(
    run: Run, zoo: Path, kinds: Collection[Kind] = DEFAULT, more: MorePhotos = NO_MORE, *, say: Say = print
) -> tuple[ModelCard, list[str]]:
    """Export, check and publish `run` into the folder `zoo`.

    kinds: the files to publish; the fp32 ONNX file is always built, because the gate compares with it. more: photos
    beyond the run's own that the files are measured on.
    Returns the card and the reasons why files were refused. Raises GateFailed, with the zoo unchanged, if the fp32 file
    is wrong or no file is left to publish; TrainError if the run's photos are missing; InvalidArgument if the student
    is not a plain ViT, or if the model's place in the zoo is taken by something else.
    """
    with replacing(zoo, run.recipe.name) as home:
        card, contents, refused = judged(run, kinds, more, say)
        for file in card.files:
            (home / file.file).write_bytes(contents[file.file])
        say("timing the files on this device")
        list_card(home.parent, card)  # they are timed as a user runs them
        rows, _ = bench([card.id], TIMING, home.parent)
        card = replace(card, latency=[cards.latency(row) for row in rows])
        list_card(home.parent, card)
        text.describe(card, home)
        report = verify_published(card.id, zoo=home.parent)
        if not report.ok:
            raise GateFailed("; ".join(artifact.error or "" for artifact in report.artifacts if not artifact.ok))
    return card, refused


def judged(
    run: Run, kinds: Collection[Kind], more: MorePhotos, say: Say
) -> tuple[ModelCard, dict[str, bytes], list[str]]:
    """The card of the files that passed, all files by name, and the reasons why others were refused. See `publish`."""
    spec, licence = run.recipe.preprocessing, cards.licences(run).weights
    model, images = DeployedStudent(run).eval(), draw(spec.size)
    forms, search = build(run, model, kinds, say)
    for_torch = timm.files(model, spec, licence=licence, description=run.recipe.description)
    contents = for_torch | {name: content for form in forms for name, content in form.files.items()}

    def read(file: File) -> bytes:
        return contents[file.file]

    card = cards.card(run, model, [form.artifact for form in forms], search)
    card = replace(card, timm=[file_of(name, content) for name, content in for_torch.items()])
    files = {artifact.file: Model.open(card, artifact, read) for artifact in card.artifacts}
    worst = gate.check_parity(files[REFERENCE], timm.TimmStudent(card, read), images)
    say(f"timm's model of {timm.WEIGHTS} differs from the fp32 file by {worst:.1e} at most")
    sets = for_gate(run, more)
    metrics, refused = gate.judge(files, REFERENCE, sets, say)
    wanted = [name for kind, name in NAMES.items() if kind in kinds]
    reasons = [refused.get(name) or _not_found(name, search) for name in wanted if name in refused or name not in files]
    figures = [more.left_out] if more.left_out else []
    kept = [
        replace(artifact, metrics=[*metrics[artifact.file], *figures])
        for artifact in card.artifacts
        if artifact.file in wanted and artifact.file not in refused
    ]
    if not kept:
        raise GateFailed("nothing was published: " + "; ".join(reasons))
    answers = {artifact.file: files[artifact.file].run(images, model.names) for artifact in kept}
    outputs = {f"{file}/{name}": values for file, found in answers.items() for name, values in found.items()}
    golden = golden_bytes({"image": images, **outputs})
    card = replace(card, artifacts=kept, golden=golden_file(golden, kept))
    contents[card.golden.file] = golden
    # The run's validation photos, if the default head was trained on the run's own classes.
    own = (photos for photos in sets if photos.head == run.recipe.data.head == card.default_head)
    aside = more.aside or next(own, None)
    if aside is not None:
        say(f"fitting doubt on {len(aside.labels)} photos ({aside.dataset}, {aside.split})")
        card = doubt.with_doubt(card, Model.open(card, choose_artifact(card), read), aside, more)
    return card, contents, reasons


def build(run: Run, model: DeployedStudent, kinds: Collection[Kind], say: Say) -> tuple[list[Built], Search | None]:
    """The files of `kinds`, always with the fp32 ONNX file first, and the record of the int8 search if there was one.

    Raises GateFailed if the fp32 file differs from torch, InvalidArgument for a student that is not a plain ViT.
    """
    say("building the fp32 graph")
    metadata, weights = cards.metadata(run), weights_of(model)
    forms = [Built(("onnx", "fp32"), (onnx_writer.content(onnx_writer.write(weights), metadata),))]
    # Before quantization, which takes minutes, and whose errors do not explain a NaN.
    worst = gate.check_parity(forms[0].open(run, model), model, draw(run.recipe.preprocessing.size))
    say(f"largest difference from torch at batch 1, 2, 5: {worst:.1e} (limit: {gate.PARITY_TOLERANCE:g})")
    for kind in kinds:
        if kind == ("onnx", "fp16"):
            forms.append(Built(kind, (onnx_writer.content(onnx_writer.write(weights, half=True), metadata),)))
        elif kind == ("openvino", "fp16"):
            ir = openvino.convert(onnx_writer.write(weights, "tokens"))
            forms.append(Built(kind, openvino.serialize(ir, metadata, fp16=True), tools=openvino.TOOLS))
        elif kind[0] == "executorch":
            say(f"building the ExecuTorch program, {kind[1]}")
            program = executorch.build(model, metadata, int8=kind[1] == "int8")
            forms.append(Built(kind, (program,), executorch.INT8 if kind[1] == "int8" else None, executorch.TOOLS))
    formats = [form for form, precision in kinds if precision == "int8" and form != "executorch"]
    winners, search = int8.search(run, model, forms[0], formats, say) if formats else ([], None)
    return sorted([*forms, *winners], key=lambda form: [*NAMES].index(form.kind)), search


def _not_found(name: str, search: Search | None) -> str:
    """Why there is no int8 file: none passed on the selection photos."""
    tried = search.candidates if search else []
    outcomes = [f"{each.name}: {each.outcome}" for each in tried if NAMES[each.format, "int8"] == name]
    return f"{name} was not published: no int8 file passed; {'; '.join(outcomes)}"
