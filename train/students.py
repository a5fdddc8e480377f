"""The sizes that we distil: plain timm ViTs, so that whatever reads timm reads our students."""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from train.errors import TrainError


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of a student; the MLP is four times as wide as the tokens."""

    width: int
    depth: int
    heads: int


SIZES: dict[str, Size] = {
    "digits": Size(width=48, depth=12, heads=3),  # .35 M, for the embedded demo only
    "micro": Size(width=96, depth=12, heads=3),  # 1.4 M
    "nano": Size(width=128, depth=12, heads=4),  # 2.5 M
}


def make_student(size: str, *, pixels: int, patch: int) -> VisionTransformer:
    """A fresh student: image (B, 3, pixels, pixels) -> tokens (B, 1 + (pixels / patch)^2, width), CLS first.

    Raises TrainError for an unknown size or a patch that does not divide the image.
    """
    if size not in SIZES:
        raise TrainError(f"unknown student size {size!r}; the sizes are {', '.join(SIZES)}")
    if pixels % patch:
        raise TrainError(f"patches of {patch} px do not tile an image of {pixels} px; choose a multiple of {patch}")
    shape = SIZES[size]
    return VisionTransformer(
        img_size=pixels,
        patch_size=patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        num_classes=0,
    )
