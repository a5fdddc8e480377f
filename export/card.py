"""The card of a run: everything except the files and the figures measured on them."""

from __future__ import annotations

import hashlib
import json

import msgspec
from safetensors.torch import save

from export.golden import TOLERANCE
from export.graph import DeployedStudent
from leap_zoo import card as cards
from train.run import Run

CODE_LICENCE = "Apache-2.0"
GOLDEN = "golden.npz"


def revision(run: Run) -> str:
    """Twelve digits of the weights' sha256: different weights have different revisions."""
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
        "licences": json.dumps(msgspec.structs.asdict(licences(run))),
    }


def licences(run: Run) -> cards.Licences:
    """The licenses of code, weights, teacher and data."""
    return cards.Licences(
        code=CODE_LICENCE, weights=CODE_LICENCE, teacher=run.recipe.teacher.licence, data=run.recipe.data.licence
    )


def architecture(run: Run) -> cards.Architecture:
    """The student's architecture."""
    student, block = run.student, run.student.blocks[0]
    return cards.Architecture(
        patch=student.patch_embed.patch_size[0],
        width=student.embed_dim,
        depth=len(student.blocks),
        heads=block.attn.num_heads,
        mlp_ratio=int(block.mlp.fc1.out_features) / student.embed_dim,
        registers=student.num_reg_tokens,
        layer_scale=run.recipe.student.layerscale is not None,
        pooling=run.info.pooling,
    )


def golden(content: bytes, artifacts: list[cards.Artifact]) -> cards.Golden:
    """The card's entry for the golden file of these artifacts."""
    digest, tolerance = hashlib.sha256(content).hexdigest(), {a.precision: TOLERANCE[a.precision] for a in artifacts}
    return cards.Golden(file=GOLDEN, bytes=len(content), sha256=digest, tolerance=tolerance)


def card(
    run: Run,
    model: DeployedStudent,
    artifacts: list[cards.Artifact],
    search: cards.Search | None = None,
) -> cards.ModelCard:
    """The card of a run with these artifacts, without a golden file yet. search: how its int8 files were found."""
    recipe, report, info = run.recipe, run.report, run.info
    size = recipe.preprocessing.size
    student, teacher = model.student.embed_dim, model.space.out_features
    widths = {"embedding": student, "teacher_embedding": teacher}
    widths |= {f"logits_{head.name}": len(head.labels) for head in info.heads}
    return cards.ModelCard(
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
        outputs=[
            cards.Tensor(name=name, dtype="float32", shape=["batch", widths[name]])
            for name in sorted(widths, key=model.names.index)
        ],
        embedding_dims=cards.EmbeddingDims(student=student, teacher=teacher),
        artifacts=artifacts,
        golden=golden(b"", artifacts),
        architecture=architecture(run),
        search=search,
        training=cards.Training(
            recipe=recipe.name,
            seed=recipe.seed,
            commit=report.commit,
            epochs=recipe.epochs,
            strategy=report.strategy,
            teacher=cards.Teacher(
                name=recipe.teacher.model, provenance=recipe.teacher.provenance, pixels=recipe.teacher.pixels
            ),
            teacher_flops=report.teacher_flops,
            total_flops=report.total_flops,
            teacher_flops_saved=report.teacher_flops_saved,
            curriculum=[
                cards.CurriculumStep(step=m.step, block=m.block, similarity=m.similarity, reason=m.reason)
                for m in run.moves
            ],
        ),
    )
