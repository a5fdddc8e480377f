"""The student sizes: plain timm ViTs, so that tools for timm can read our students."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from train import recipe
from train.errors import TrainError
from train.method.teacher import ViT, normed_blocks

SIZES = {  # width, blocks, heads, hidden units of the MLP
    "digits": (48, 12, 3, 192),  # for the embedded demo only
    "micro": (128, 12, 4, 224),
    "study": (128, 12, 4, 512),  # for experiments side by side
    "nano": (160, 12, 5, 512),
    "tiny": (192, 12, 3, 768),  # ViT-T of DeiT (arXiv 2012.12877)
    "small": (384, 12, 6, 1536),  # ViT-S of DeiT
    "base": (768, 12, 12, 3072),  # ViT-B (arXiv 2010.11929)
}


def make_student(spec: recipe.Student, *, pixels: int) -> VisionTransformer:
    """A fresh student: image (B, 3, pixels, pixels) -> tokens (B, P + (pixels / patch)^2, width).

    The P = 1 + registers prefix tokens are CLS, then the registers. Raises TrainError for an unknown size or a patch
    that does not divide the image.
    """
    if spec.size not in SIZES:
        raise TrainError(f"unknown student size {spec.size!r}; the sizes are {', '.join(SIZES)}")
    if pixels % spec.patch:
        raise TrainError(
            f"patches of {spec.patch} px do not tile an image of {pixels} px; choose a multiple of {spec.patch}"
        )
    width, depth, heads, hidden = SIZES[spec.size]
    return VisionTransformer(
        img_size=pixels,
        patch_size=spec.patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=hidden / width,
        reg_tokens=spec.registers,
        init_values=spec.layerscale,
        num_classes=0,
    )


def tokens_at(student: VisionTransformer, images: Tensor, depths: Sequence[int]) -> list[Tensor]:
    """Tokens (B, prefix + N, width) after blocks 1..d and the final norm, for each depth d; no deeper block is run."""
    wanted = sorted(set(depths))
    found = normed_blocks(student, images, wanted)
    by_depth = {depth: torch.cat([prefix, patches], 1) for depth, (patches, prefix) in zip(wanted, found, strict=True)}
    return [by_depth[depth] for depth in depths]


@torch.no_grad()
def grow_from_identity(student: VisionTransformer, depth: int) -> None:
    """Make every block deeper than `depth` the identity: the output layers of its two residual branches become zero.

    The gradient reaches those layers first, so a block that joins neither disturbs the others nor stays idle.
    """
    for block in student.blocks[depth:]:
        for layer in (block.attn.proj, block.mlp.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def plain_attention(vit: ViT, plain: bool) -> None:
    """Attention as matrix products and a softmax, or by torch's fused kernel: the same numbers but for rounding.

    On a CPU the fused kernel's backward pass takes a third of a small student's step, and a fifth of a small teacher's
    forward pass (`python -m tools.bench_train`).
    """
    for block in vit.blocks:
        if hasattr(getattr(block, "attn", None), "fused_attn"):  # not every teacher's attention has the choice
            block.attn.fused_attn = not plain
