"""The student in timm's format: `timm.create_model("local-dir:FOLDER", pretrained=True)`.

`config.json` and `model.safetensors` are timm's own files. timm's classifier is one head of the student. The parts that
timm cannot represent, the projection into the teacher's space and the other heads, are in `projection.safetensors`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import timm
from safetensors import safe_open
from safetensors.torch import save

from export.graph import DeployedStudent, Graph, layer_of
from leap_zoo.card import File, ModelCard, Preprocessing
from leap_zoo.errors import InvalidArgument
from train.run import HeadInfo

CONFIG, WEIGHTS, PROJECTION = "config.json", "model.safetensors", "projection.safetensors"
ARCHITECTURE = "vit_tiny_patch16_224"  # any plain ViT of timm: `model_args` overrides all that the name sets


def files(model: DeployedStudent, spec: Preprocessing, *, licence: str, description: str) -> dict[str, bytes]:
    """Name -> content of the files for torch users.

    Before its classifier, timm's model gives the `embedding` without L2 normalization. The classifier is the default
    head if that reads the same token, otherwise the first head that does; without one, `num_classes` is 0.
    """
    info = model.info
    default = [head for head in info.heads if head.name == info.default_head]
    fit = [head for head in [*default, *info.heads] if head.features == "embedding" or info.pooling == "cls"]
    chosen = fit[0] if fit else None
    weights = {name: tensor.contiguous() for name, tensor in model.student.state_dict().items()}
    rest = {f"projection.{key}": tensor for key, tensor in model.space.state_dict().items()}
    reads = {}
    for head, layer in zip(info.heads, model.classifiers, strict=True):
        parts = layer.state_dict()
        if head is not chosen:
            rest |= {f"heads.{head.name}.{key}": tensor for key, tensor in parts.items()}
            reads[head.name] = head.features
            continue
        if head.features == "teacher_embedding":  # head(projection(x)) as one linear, in double precision
            weight, bias, inner, shift = (x.double() for x in (*parts.values(), *model.space.state_dict().values()))
            parts = {"weight": (weight @ inner).float(), "bias": (weight @ shift + bias).float()}
        weights |= {f"head.{key}": tensor for key, tensor in parts.items()}
    return {
        CONFIG: json.dumps(_config(model, spec, chosen, licence, description), indent=1).encode() + b"\n",
        PROJECTION: save(rest, metadata={"reads": json.dumps(reads)}),  # one entry: several would be in any order
        WEIGHTS: save(weights, metadata={"format": "pt"}),
    }


class TimmStudent(Graph):
    """The student as torch users load it, from the files that `read` returns."""

    def __init__(self, card: ModelCard, read: Callable[[File], bytes]) -> None:
        if not card.timm:
            raise InvalidArgument(f"{card.id} has no files for timm: export its run again")
        with tempfile.TemporaryDirectory() as folder:
            for file in card.timm:
                (Path(folder) / file.file).write_bytes(read(file))
            student = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            with safe_open(Path(folder) / PROJECTION, "pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118, not a dict
                reads = json.loads(stored.metadata()["reads"])
        heads = {
            head.name: (reads[head.name], layer_of(tensors, f"heads.{head.name}"))
            if head.name in reads
            else ("embedding", student.head)
            for head in card.heads
        }
        config = student.pretrained_cfg
        pooling: Literal["cls", "patch_mean"] = "cls" if student.global_pool == "token" else "patch_mean"
        super().__init__(student, (config["mean"], config["std"]), pooling, layer_of(tensors, "projection"), heads)


def _config(
    model: DeployedStudent, spec: Preprocessing, head: HeadInfo | None, licence: str, description: str
) -> dict[str, Any]:
    vit, classes = model.student, 0 if head is None else len(head.labels)
    pooling = "token" if model.pooling == "cls" else "avg"
    block = vit.blocks[0]
    arguments = {
        "img_size": spec.size,
        "patch_size": vit.patch_embed.patch_size[0],
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / vit.embed_dim,
        "reg_tokens": vit.num_reg_tokens,
        "init_values": 1.0 if hasattr(block.ls1, "gamma") else None,
        "num_classes": classes,
        "global_pool": pooling,
        "fc_norm": False,  # the last norm applies to the tokens, before pooling
    }
    return {
        "architecture": ARCHITECTURE,
        "num_classes": classes,
        "num_features": vit.embed_dim,
        "global_pool": pooling,
        **({} if head is None else {"label_names": head.labels}),
        "model_args": {name: value for name, value in arguments.items() if value is not None},
        "pretrained_cfg": {
            "input_size": [3, spec.size, spec.size],
            "fixed_input_size": True,
            "interpolation": spec.filter,
            "crop_pct": _crop(spec),
            "crop_mode": spec.crop,
            "mean": list(model.info.mean),
            "std": list(model.info.std),
            "num_classes": classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": licence,
            "description": description,
        },
    }


def _crop(spec: Preprocessing) -> float:
    """The share of the short side that the crop keeps: timm resizes the short side to floor(size / share) pixels."""
    share = spec.size / spec.short_side
    while math.floor(spec.size / share) < spec.short_side:
        share = math.nextafter(share, 0)
    return share
