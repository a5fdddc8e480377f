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
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from export.graph import DeployedStudent
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
    chosen = _classifier(model)
    weights = {name: tensor.contiguous() for name, tensor in model.student.state_dict().items()}
    projection = model.tensors["projection.cls.weight"], model.tensors["projection.cls.bias"]
    rest = {"projection.weight": projection[0].contiguous(), "projection.bias": projection[1]}
    reads = {}
    for head in model.heads:
        weight, bias = _head(model, head)
        if head is not chosen:
            rest |= {f"heads.{head.name}.weight": weight.contiguous(), f"heads.{head.name}.bias": bias}
            reads[head.name] = head.features
        else:
            if head.features == "teacher_embedding":
                weight, bias = _folded((weight, bias), projection)
            weights |= {"head.weight": weight.contiguous(), "head.bias": bias}
    return {
        CONFIG: json.dumps(_config(model, spec, chosen, licence, description), indent=1).encode() + b"\n",
        PROJECTION: save(rest, metadata={"reads": json.dumps(reads)}),  # one entry: several would be in any order
        WEIGHTS: save(weights, metadata={"format": "pt"}),
    }


class TimmStudent(nn.Module):
    """The student as torch users load it, from the files that `read` returns: the same outputs as `DeployedStudent`."""

    def __init__(self, card: ModelCard, read: Callable[[File], bytes]) -> None:
        super().__init__()
        if not card.timm:
            raise InvalidArgument(f"{card.id} has no files for timm: export its run again")
        self.names = [tensor.name for tensor in card.outputs]
        self.heads = card.heads
        with tempfile.TemporaryDirectory() as folder:
            for file in card.timm:
                (Path(folder) / file.file).write_bytes(read(file))
            self.student = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            with safe_open(Path(folder) / PROJECTION, "pt") as tensors:
                self.tensors = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118, not a dict
                self.reads = json.loads(tensors.metadata()["reads"])
        config = self.student.pretrained_cfg
        mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """image uint8 (B, H, W, 3) -> the outputs `names`, in that order."""
        tokens = self.student.forward_features(image.permute(0, 3, 1, 2).float() * self.scale + self.shift)
        features = self.student.forward_head(tokens, pre_logits=True)  # (B, D_s)
        teacher = linear(tokens[:, 0], self.tensors["projection.weight"], self.tensors["projection.bias"])  # (B, D_t)
        found = {"embedding": normalize(features), "teacher_embedding": normalize(teacher)}
        for head in self.heads:
            if head.name in self.reads:
                x = features if self.reads[head.name] == "embedding" else teacher
                weight, bias = (self.tensors[f"heads.{head.name}.{part}"] for part in ("weight", "bias"))
                found[head.output] = linear(x, weight, bias)
            else:
                found[head.output] = self.student.head(features)
        return tuple(found[name] for name in self.names)


def _classifier(model: DeployedStudent) -> HeadInfo | None:
    default = [head for head in model.heads if head.name == model.default_head]
    fit = (head for head in [*default, *model.heads] if head.features == "embedding" or model.pooling == "cls")
    return next(fit, None)


def _head(model: DeployedStudent, head: HeadInfo) -> tuple[Tensor, Tensor]:
    return model.tensors[f"heads.{head.name}.weight"], model.tensors[f"heads.{head.name}.bias"]


def _folded(head: tuple[Tensor, Tensor], projection: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """head(projection(x)) as one linear (out, in), computed in double precision."""
    (outer, outer_bias), (inner, inner_bias) = ((weight.double(), bias.double()) for weight, bias in (head, projection))
    return (outer @ inner).float(), (outer @ inner_bias + outer_bias).float()


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
            "mean": list(model.mean),
            "std": list(model.std),
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
