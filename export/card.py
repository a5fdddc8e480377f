"""The card of a run and the files that it lists: their names, their digests, and how they were built.

Its figures are measured by `export.gate`, `export.doubt` and `leap_zoo.bench`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Final

import msgspec
from safetensors.torch import save

from export import onnx_writer, openvino
from export.formats import executorch
from export.golden import file_of, golden_file
from export.graph import DeployedStudent
from leap_zoo import card as cards
from leap_zoo.bench import Row
from leap_zoo.card import Artifact, Format, ModelCard, Precision
from leap_zoo.model import Model
from train.run import Run

CODE_LICENCE = "Apache-2.0"
Kind = tuple[Format, Precision]

# The suffixes that browser and hub users expect. An IR's weights are in a .bin of the same name.
NAMES: Final[dict[Kind, str]] = {
    ("onnx", "fp32"): "model.onnx",
    ("onnx", "fp16"): "model_fp16.onnx",
    ("onnx", "int8"): "model_int8.onnx",
    ("openvino", "fp16"): "model_fp16.xml",
    ("openvino", "int8"): "model_int8.xml",
    ("executorch", "fp32"): "model.pte",
    ("executorch", "int8"): "model_int8.pte",
}
DEFAULT: Final[tuple[Kind, ...]] = tuple(kind for kind in NAMES if kind[0] != "executorch")  # an extra


@dataclass(frozen=True)
class Built:
    """One artifact, as bytes: one file, or an IR's .xml and .bin. `recipe`: how it was quantized; None for floats."""

    kind: Kind
    contents: tuple[bytes, ...]
    recipe: dict[str, object] | None = None
    tools: tuple[str, ...] = ("torch", "timm", "onnx")

    @cached_property
    def artifact(self) -> Artifact:
        """The card's entry for these files; the gate adds its metrics."""
        form, precision = self.kind
        writer = {"onnx": onnx_writer, "openvino": openvino, "executorch": executorch}[form]
        name = NAMES[self.kind]
        file, *weights = map(file_of, (name, name.replace(".xml", ".bin")), self.contents)
        return Artifact(
            **msgspec.structs.asdict(file),
            precision=precision,
            format=form,
            weights=weights[0] if weights else None,
            opset=onnx_writer.OPSET if form == "onnx" else None,
            ir=writer.IR,
            minimum_runtime=writer.MINIMUM_RUNTIME,
            tools={tool: version(tool) for tool in self.tools},
            quantisation=self.recipe,
        )

    @property
    def files(self) -> dict[str, bytes]:
        """Name -> content."""
        return {file.file: content for file, content in zip(self.artifact.files, self.contents, strict=True)}

    def open(self, run: Run, model: DeployedStudent, threads: int | None = None) -> Model:
        """The files as a model, without a zoo."""
        return Model.open(card(run, model, [self.artifact]), self.artifact, lambda file: self.files[file.file], threads)


def revision(run: Run) -> str:
    """The first 12 digits of the sha256 of the weights; labels and preprocessing do not change it."""
    return hashlib.sha256(save(dict(run.student.state_dict())) + save(run.tensors)).hexdigest()[:12]


def metadata(run: Run) -> dict[str, str]:
    """The metadata inside each file, for anyone who has the file without its card."""
    spec = run.recipe.preprocessing
    return {
        "model_id": run.recipe.name,
        "revision": revision(run),
        "description": run.recipe.description,
        "preprocessing": json.dumps({"size": spec.size, "short_side": spec.short_side, "filter": spec.filter}),
        "labels": json.dumps({head.name: head.labels for head in run.info.heads}),
        "default_head": run.info.default_head,
        "licences": json.dumps(msgspec.structs.asdict(licences(run))),
    }


def licences(run: Run) -> cards.Licences:
    """The licenses of code, weights, teacher and data."""
    recipe = run.recipe
    return cards.Licences(
        code=CODE_LICENCE, weights=CODE_LICENCE, teacher=recipe.teacher.licence, data=recipe.data.licence
    )


def latency(row: Row) -> cards.Latency:
    """A row of the bench as the card has it."""
    known = {name: getattr(row, name) for name in cards.Latency.__struct_fields__}
    return cards.Latency(**known | {"isa": row.isa.split()})


def card(run: Run, model: DeployedStudent, artifacts: list[Artifact], search: cards.Search | None = None) -> ModelCard:
    """The card of a run with these artifacts, without a golden file yet. search: how its int8 files were found."""
    recipe, report, info = run.recipe, run.report, run.info
    size, block = recipe.preprocessing.size, run.student.blocks[0]
    student, teacher = model.student.embed_dim, model.space.out_features
    widths = {"embedding": student, "teacher_embedding": teacher}
    widths |= {f"logits_{head.name}": len(head.labels) for head in info.heads}
    return ModelCard(
        id=recipe.name,
        revision=revision(run),
        description=recipe.description,
        parameters=sum(parameter.numel() for parameter in model.student.parameters()),
        licences=licences(run),
        preprocessing=recipe.preprocessing,
        heads=[
            cards.Head(name=head.name, output=f"logits_{head.name}", labels=list(head.labels)) for head in info.heads
        ],
        default_head=info.default_head,
        inputs=[cards.Tensor(name="image", dtype="uint8", shape=["batch", size, size, 3])],
        outputs=[cards.Tensor(name=name, dtype="float32", shape=["batch", widths[name]]) for name in model.names],
        embedding_dims=cards.EmbeddingDims(student=student, teacher=teacher),
        artifacts=artifacts,
        golden=golden_file(b"", artifacts),
        architecture=cards.Architecture(
            patch=run.student.patch_embed.patch_size[0],
            width=student,
            depth=len(run.student.blocks),
            heads=block.attn.num_heads,
            mlp_ratio=int(block.mlp.fc1.out_features) / student,
            registers=run.student.num_reg_tokens,
            layer_scale=recipe.student.layerscale is not None,
            pooling=info.pooling,
        ),
        search=search,
        training=cards.Training(
            recipe=recipe.name,
            seed=recipe.seed,
            commit=report.commit,
            epochs=recipe.epochs,
            images=report.images_seen,
            strategy=report.strategy,
            teacher=cards.Teacher(
                name=recipe.teacher.model, provenance=recipe.teacher.provenance, pixels=recipe.teacher.pixels
            ),
            teacher_flops=report.teacher_flops,
            total_flops=report.total_flops,
            teacher_flops_saved=report.teacher_flops_saved,
            curriculum=[cards.CurriculumStep(**asdict(move)) for move in run.moves],
            continued=report.continued,
        ),
    )
