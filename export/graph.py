"""The deployed graph: uint8 pixels in; embedding, teacher_embedding and a logits output per head out.

Everything that a user could get wrong (scaling, normalization, L2) is inside. Only resize and crop stay outside, in
`leap_zoo.preprocess`. `DeployedStudent` is the graph in torch. `weights_of` gives it as plain arrays, with everything
foldable folded; files are written from these. Pixel scaling and normalization are folded into the patch embedding, the
attention scale into q, and LayerScale into the linear before it, in double precision and rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from leap_zoo.errors import InvalidArgument
from train.run import Run

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Pair = tuple[F32, F32]  # of a linear: weight (in, out), bias (out,); of a norm: weight, bias

CENTER = 128  # subtracted from every byte, so that float32 does not lose digits in a large sum that the bias cancels


class Graph(nn.Module):
    """image uint8 (B, H, W, 3) RGB -> float32 outputs in the order of `names`.

    embedding (B, D_s) and teacher_embedding (B, D_t), both L2-normalized; logits_<head> (B, classes) for each head.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        student: Any,
        normalisation: tuple[Sequence[float], Sequence[float]],
        pooling: Literal["cls", "patch_mean"],
        space: nn.Linear,
        heads: Mapping[str, tuple[str, nn.Linear]],
    ) -> None:
        """student: a timm VisionTransformer. space: CLS into the teacher's. heads: name -> what it reads, its layer."""
        super().__init__()
        self.student, self.pooling = student, pooling
        self.names = ["embedding", "teacher_embedding", *(f"logits_{name}" for name in heads)]
        mean, std = map(torch.tensor, normalisation)
        # (pixels / 255 - mean) / std as one multiply-add
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))
        self.space, self.features = space, [features for features, _ in heads.values()]
        self.classifiers = nn.ModuleList(layer for _, layer in heads.values())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        pixels = image.permute(0, 3, 1, 2).float() * self.scale + self.shift  # (B, 3, H, W)
        tokens = self.student.forward_features(pixels)  # (B, prefix + N, D_s)
        cls = tokens[:, 0]
        patches = tokens[:, self.student.num_prefix_tokens :]  # (B, N, D_s)
        embedding = cls if self.pooling == "cls" else patches.sum(1) / patches.shape[1]  # (B, D_s)
        teacher = self.space(cls)  # (B, D_t)
        logits = [
            layer(embedding if features == "embedding" else teacher)
            for features, layer in zip(self.features, self.classifiers, strict=True)
        ]
        return _unit(embedding), _unit(teacher), *logits


class DeployedStudent(Graph):
    """The graph of a run."""

    def __init__(self, run: Run) -> None:
        info = run.info
        heads = {head.name: (head.features, layer_of(run.tensors, f"heads.{head.name}")) for head in info.heads}
        space = layer_of(run.tensors, "projection.cls")
        super().__init__(run.student, (info.mean, info.std), info.pooling, space, heads)
        self.info = info


def layer_of(tensors: Mapping[str, Tensor], name: str) -> nn.Linear:
    """The linear with the weight and bias of this name."""
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _unit(x: Tensor) -> Tensor:
    """L2-normalized rows."""
    return x * torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-12)


@dataclass(frozen=True)
class Weights:
    """All weights of the graph, as plain arrays, so that quantization can rewrite them.

    pairs: weight and bias of each linear, (in, out) and (out,), and of each norm, by name: `embed` (of bytes - CENTER
    in (row, column, channel) order), `blocks.0.norm1`, `.qkv`, `.proj`, `.norm2`, `.fc1`, `.fc2`, and so on, `norm`,
    `space` (D, D_t), and `logits_<head>`. reads: the features that each of these last ones reads.
    """

    size: int
    patch: int
    depth: int
    heads: int
    epsilon: float
    pooling: Literal["cls", "patch_mean"]
    prefix: F32  # (P, D): CLS and registers, positions included
    positions: F32  # (N, D): of the patches
    pairs: dict[str, Pair]
    reads: dict[str, str]


def weights_of(model: DeployedStudent) -> Weights:
    """The model's tensors, folded. Raises InvalidArgument for a student that is not a plain ViT."""
    vit = model.student
    _check_plain(vit)
    conv = vit.patch_embed.proj
    kernel = _array(conv.weight)  # (D, 3, p, p)
    scale, shift = _array(model.scale).reshape(1, 3, 1, 1), _array(model.shift).reshape(1, 3, 1, 1)
    bias = (kernel * (shift + CENTER * scale)).sum((1, 2, 3)) + (0 if conv.bias is None else _array(conv.bias))
    embed = (kernel * scale).transpose(2, 3, 1, 0).reshape(-1, len(kernel))
    prefix = _array(vit.cls_token)[0]
    if getattr(vit, "reg_token", None) is not None:
        prefix = np.concatenate([prefix, _array(vit.reg_token)[0]])
    positions = _array(vit.pos_embed)[0]
    if not vit.no_embed_class:
        prefix, positions = prefix + positions[: len(prefix)], positions[len(prefix) :]
    pairs = {"embed": (embed, bias), "norm": _norm(vit.norm), "space": _linear(model.space)}
    for rank, block in enumerate(vit.blocks):
        weight, bias = _linear(block.attn.qkv)
        factor = np.ones(len(bias))
        factor[: len(weight)] = (len(weight) // block.attn.num_heads) ** -0.5
        pairs |= {
            f"blocks.{rank}.norm1": _norm(block.norm1),
            f"blocks.{rank}.qkv": (weight * factor, bias * factor),
            f"blocks.{rank}.proj": _linear(block.attn.proj, block.ls1),
            f"blocks.{rank}.norm2": _norm(block.norm2),
            f"blocks.{rank}.fc1": _linear(block.mlp.fc1),
            f"blocks.{rank}.fc2": _linear(block.mlp.fc2, block.ls2),
        }
    heads = [f"logits_{head.name}" for head in model.info.heads]
    pairs |= {name: _linear(layer) for name, layer in zip(heads, model.classifiers, strict=True)}
    return Weights(
        size=vit.patch_embed.img_size[0],
        patch=conv.kernel_size[0],
        depth=len(vit.blocks),
        heads=vit.blocks[0].attn.num_heads,
        epsilon=vit.norm.eps,
        pooling=model.pooling,
        prefix=prefix.astype(np.float32),
        positions=positions.astype(np.float32),
        pairs={name: (_float32(weight), _float32(bias)) for name, (weight, bias) in pairs.items()},
        reads=dict(zip(heads, model.features, strict=True)),
    )


def _check_plain(vit: Any) -> None:
    """Refuse modules that `Weights` would silently drop. `vit`: a timm VisionTransformer. Raises InvalidArgument."""
    attention, mlp, nothing = vit.blocks[0].attn, vit.blocks[0].mlp, nn.Identity()
    norms = {"norm_pre": vit.norm_pre, "q_norm": attention.q_norm, "k_norm": attention.k_norm}
    norms |= {"attn.norm": getattr(attention, "norm", nothing), "mlp.norm": getattr(mlp, "norm", nothing)}
    if unknown := [name for name, module in norms.items() if not isinstance(module, nn.Identity)]:
        raise InvalidArgument(f"the student has a {unknown[0]}, which cannot be exported: train one without it")
    if vit.cls_token is None or not isinstance(vit.norm, nn.LayerNorm) or not isinstance(mlp.act, nn.GELU):
        raise InvalidArgument("the student has no CLS token, no final LayerNorm or no GELU: train a plain ViT")


def _linear(layer: Any, scale: nn.Module | None = None) -> tuple[F64, F64]:
    weight = _array(layer.weight).T
    bias = np.zeros(weight.shape[1]) if layer.bias is None else _array(layer.bias)
    gamma = getattr(scale, "gamma", None)  # LayerScale; Identity has none
    return (weight, bias) if gamma is None else (weight * _array(gamma), bias * _array(gamma))


def _norm(layer: Any) -> tuple[F64, F64]:
    return _array(layer.weight), _array(layer.bias)


def _array(tensor: Tensor) -> F64:
    return tensor.detach().double().numpy()


def _float32(values: F64) -> F32:
    return np.ascontiguousarray(values, dtype=np.float32)
