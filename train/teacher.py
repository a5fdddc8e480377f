"""A frozen ViT that stops at a block: blocks deeper than the target are never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from train import recipe
from train.errors import TrainError


class Tokens(NamedTuple):
    """What a block says about B images: patches (B, N, D) and CLS (B, D), both after the model's final norm."""

    patches: Tensor
    cls: Tensor


class Teacher(nn.Module):
    """A timm ViT, frozen and in evaluation mode.

    blocks: how many it has. width: D_t. grid: patches per side. Blocks are counted from 1.
    """

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        if not hasattr(vit, "blocks") or not hasattr(vit, "forward_intermediates"):
            raise TrainError(
                f"{type(vit).__name__} has no transformer blocks to stop at; choose a ViT: "
                "python -c 'import timm; print(timm.list_models(\"vit_*\"))'"
            )
        if getattr(vit, "cls_token", None) is None:
            raise TrainError("the teacher has no CLS token, which the loss needs; choose a ViT with one")
        self.vit = vit.eval().requires_grad_(False)
        self.blocks = len(vit.blocks)
        self.width = int(vit.embed_dim)
        self.grid = int(vit.patch_embed.grid_size[0])
        self.classes = int(vit.num_classes)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode whatever the trainer asks."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, block: int) -> Tokens:
        """Run blocks 1..block only. images (B, 3, H, W), normalised."""
        return self._tokens(images, [block - 1], stop_early=True)[0]

    @torch.no_grad()
    def at(self, images: Tensor, blocks: Sequence[int]) -> list[Tokens]:
        """Tokens of several blocks, in the order of depth; none behind the deepest of them is run."""
        return self._tokens(images, [block - 1 for block in blocks], stop_early=True)

    @torch.no_grad()
    def every_block(self, images: Tensor) -> list[Tokens]:
        """Run the whole teacher once and keep the tokens of each block, shallow first."""
        return self._tokens(images, list(range(self.blocks)), stop_early=False)

    @torch.no_grad()
    def head(self, cls: Tensor) -> Tensor:
        """The teacher's own classifier on CLS tokens (B, D_t) of its last block -> logits (B, classes)."""
        return self.vit.head(cls)

    def _tokens(self, images: Tensor, indices: list[int], *, stop_early: bool) -> list[Tokens]:
        features = self.vit.forward_intermediates(
            images,
            indices=indices,
            return_prefix_tokens=True,
            norm=True,
            stop_early=stop_early,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [Tokens(patches, prefix[:, 0]) for patches, prefix in features]


def make_vit(spec: recipe.Teacher, pixels: int, classes: int | None = None) -> nn.Module:
    """The timm model of a recipe for images of `pixels` px: position embeddings resampled, weights loaded strictly.

    classes: outputs of the classifier (only for a teacher that is trained here). Raises TrainError.
    """
    loading: dict[str, object] = {"pretrained": spec.pretrained}
    if spec.checkpoint is not None:
        path = Path(spec.checkpoint)
        if not path.is_file():
            raise TrainError(f"no teacher file {path}; give teacher.checkpoint=FILE.safetensors")
        if path.suffix != ".safetensors":
            raise TrainError(f"{path.name} is no .safetensors file; other checkpoints are pickles and are never opened")
        # timm drops a classifier, and loads leniently, unless the configuration expects this number of classes.
        expected = spec.options.get("num_classes") if classes is None else classes
        overlay = {"file": str(path)} if expected is None else {"file": str(path), "num_classes": expected}
        loading = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    if classes is not None:
        loading["num_classes"] = classes
    if not timm.is_model(spec.model):
        close = timm.list_models(f"*{spec.model}*")[:3]
        raise TrainError(f"timm has no model {spec.model!r}" + (f"; near: {', '.join(close)}" if close else ""))
    try:
        return timm.create_model(spec.model, img_size=pixels, **loading, **spec.options)
    except SafetensorError as error:
        raise TrainError(f"{spec.checkpoint} is no safetensors file ({error}); download it again") from error
    except (RuntimeError, KeyError, TypeError, AssertionError) as error:
        first = " ".join(str(error).split())[:200]
        raise TrainError(f"the teacher does not fit {spec.model} at {pixels} px: {first}") from error
    except OSError as error:
        raise TrainError(
            f"cannot fetch {spec.model} from the hub ({type(error).__name__}); "
            "offline, give its weights as teacher.checkpoint=FILE.safetensors"
        ) from error


def normalisation(vit: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per RGB channel, in 0..1, that the teacher's own configuration names."""
    return tuple(vit.pretrained_cfg["mean"]), tuple(vit.pretrained_cfg["std"])
