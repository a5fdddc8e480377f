"""A frozen ViT that stops at a block: blocks deeper than the target are never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import timm
import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from train import recipe
from train.errors import TrainError

# The modules of timm whose ViTs agree on tokens, final norm and early exit, as the tests show.
FAMILIES = {
    f"timm.models.{name}"
    for name in ("vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos", "deit", "beit", "eva")
}
HUB_FILE = "model.safetensors"  # what timm's own repositories hold; custom names are those of other formats
LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
EXAMPLE = "choose one with a CLS token, such as vit_small_patch14_dinov2 or vit_tiny_patch16_224"
BY_HAND = "teacher.pretrained=false teacher.checkpoint=FILE.safetensors"

ViT = Any  # a model of timm, of whichever family: its parts have no common type


class Tokens(NamedTuple):
    """What a block says about B images: patches (B, N, D) and CLS (B, D), both after the model's final norm."""

    patches: Tensor
    cls: Tensor


class Teacher(nn.Module):
    """A timm ViT with a CLS token, frozen and in evaluation mode. It resizes images to `pixels`, if need be.

    Its blocks are counted from 1; width: D_t; classes: outputs of its classifier, 0 without one.
    Tokens have passed the model's final norm. Models that pool patches keep that norm behind the pooling (`fc_norm`);
    it is applied to each token here, since the residual stream itself is no target: a few channels dwarf the rest.
    The few that were trained without any final norm (RADIO, PE spatial) give their tokens as they are.
    """

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self.blocks, self.width, self.classes = len(vit.blocks), int(vit.embed_dim), int(vit.num_classes)
        self.pixels = int(vit.patch_embed.img_size[0])

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode whatever the trainer asks."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor, block: int) -> Tokens:
        """Run blocks 1..block only. images (B, 3, H, W), normalized."""
        return self.at(images, [block])[0]

    @torch.no_grad()
    def at(self, images: Tensor, blocks: Sequence[int]) -> list[Tokens]:
        """Tokens of several blocks, in the order of depth; none behind the deepest of them is run."""
        found = normed_blocks(self.vit, resized(images, self.pixels), blocks)
        tokens = [Tokens(patches, prefix[:, 0]) for patches, prefix in found]  # CLS, then registers, which are left
        if not isinstance(self.vit.norm, nn.Identity):
            return tokens
        return [Tokens(self.vit.fc_norm(patches), self.vit.fc_norm(cls)) for patches, cls in tokens]

    def head(self, cls: Tensor) -> Tensor:
        """The teacher's own classifier on CLS tokens (B, D_t) of its last block -> logits (B, classes).

        Raises TrainError where it has none that reads CLS alone.
        """
        return classifier(self.vit)(cls)


def resized(images: Tensor, pixels: int) -> Tensor:
    """Images (B, 3, H, W) of any size -> (B, 3, pixels, pixels), float32 where they change."""
    if images.shape[-2:] == (pixels, pixels):
        return images
    return functional.interpolate(images.float(), (pixels, pixels), mode="bicubic", antialias=True)


def normed_blocks(vit: ViT, images: Tensor, blocks: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Patches (B, N, D) and prefix tokens (B, P, D) after each of `blocks`, counted from 1, and the model's `norm`.

    In the order of depth; no block behind the deepest of them is run.
    """
    return vit.forward_intermediates(
        images,
        indices=[block - 1 for block in blocks],
        return_prefix_tokens=True,
        norm=True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )


def classifier(vit: ViT) -> nn.Linear:
    """The linear classifier that reads CLS alone, all that a student's projection offers to it. Raises TrainError."""
    if not isinstance(vit.head, nn.Linear):
        why = "has no classifier that teacher.head could export"
    elif hasattr(vit, "head_dist"):
        why = "has a classifier that reads a distillation token beside CLS"
    elif vit.global_pool != "token":
        why = f"has a classifier that reads pooled patches (`{vit.global_pool}`), not CLS"
    elif not isinstance(vit.norm, nn.Identity) and not isinstance(getattr(vit, "fc_norm", None), nn.Identity | None):
        why = "has a second norm before its classifier"
    else:
        return vit.head
    name = vit.pretrained_cfg.get("architecture", type(vit).__name__)
    raise TrainError(f"{name} {why}; leave it out with teacher.head=null")


def check_teacher(spec: recipe.TeacherSettings, pixels: int) -> ViT:
    """Check the model's shape and files before weights are fetched. Raises TrainError.

    Returns the model of `make_vit` without memory (on torch's `meta` device): its shapes.
    """
    if not timm.is_model(spec.model):
        close = timm.list_models(f"*{spec.model}*")[:3]
        raise TrainError(f"timm has no model {spec.model!r}" + (f"; near: {', '.join(close)}" if close else ""))
    if timm.model_entrypoint(spec.model).__module__ not in FAMILIES:
        raise TrainError(f"{spec.model} is not a ViT whose blocks LEAP can follow; {EXAMPLE}")
    if loading := sorted(LOADING & set(spec.options)):
        raise TrainError(
            f"teacher.options.{loading[0]}: weights are loaded by teacher.checkpoint=FILE.safetensors or "
            "teacher.pretrained=true, which open no pickle"
        )
    if spec.checkpoint and not Path(spec.checkpoint).is_file():
        raise TrainError(f"there is no teacher file {spec.checkpoint}; give teacher.checkpoint=FILE.safetensors")
    if spec.checkpoint and not spec.checkpoint.endswith(".safetensors"):
        raise TrainError(f"{spec.checkpoint} is not a .safetensors file; other checkpoints are pickles, never opened")
    with torch.device("meta"):  # shapes only
        vit = _create(spec, pixels)
    if getattr(vit, "cls_token", None) is None:
        raise TrainError(f"{spec.model} has no CLS token, which the loss needs; {EXAMPLE}")
    patch, side = vit.patch_embed.patch_size[0], spec.pixels or pixels
    if side % patch:
        raise TrainError(
            f"the teacher's patches of {patch} px do not tile images of {side} px; "
            f"choose a preprocessing.size (or teacher.pixels) that is a multiple of {patch}"
        )
    if spec.head is not None:
        classifier(vit)
    return vit


def make_vit(spec: recipe.TeacherSettings, pixels: int, classes: int | None = None) -> ViT:
    """The timm model of a recipe, for images of its own `pixels`, else of `pixels` px. Raises TrainError.

    Position embeddings are resampled, weights loaded strictly; timm translates the key names of DINOv2's and DINOv3's
    own files. classes: outputs of the classifier of a teacher that is trained here.
    """
    if classes is not None:
        spec = msgspec.structs.replace(spec, options={**spec.options, "num_classes": classes})
    check_teacher(spec, pixels)
    file = fetch_weights(spec.model) if spec.pretrained else spec.checkpoint
    if file is None:
        return _create(spec, pixels)
    # timm drops a classifier, and loads leniently, unless the configuration expects this number of classes. Older
    # versions also use the loader that the configuration names for another format (`custom_load`) for any file.
    overlay = {"file": str(file), "custom_load": False}
    if "num_classes" in spec.options:
        overlay["num_classes"] = spec.options["num_classes"]
    return _create(spec, pixels, pretrained=True, pretrained_cfg_overlay=overlay)


def _create(spec: recipe.TeacherSettings, pixels: int, **loading: object) -> ViT:
    size = spec.pixels or pixels
    try:
        return timm.create_model(spec.model, img_size=size, **spec.options, **loading)
    except (SafetensorError, OSError) as error:
        source = spec.checkpoint or f"the file of {spec.model}"
        raise TrainError(f"{source} is not a safetensors file that can be read ({error}); download it again") from error
    except Exception as error:  # timm's key filters and constructors stumble over odd files and options in many ways
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainError(
            f"the teacher does not fit {spec.model} at {size} px: {said}; "
            "check teacher.model, teacher.options and the file of teacher.checkpoint against each other"
        ) from error


def fetch_weights(model: str) -> Path:
    """The weights of a timm model, from the hub or from its local cache. Raises TrainError."""
    config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    repository = config.hf_hub_id if config is not None else None
    if not repository:
        raise TrainError(f"timm names no safetensors weights for {model}; give them: {BY_HAND}")
    try:
        return Path(hf_hub_download(repository, config.hf_hub_filename or HUB_FILE))
    except Exception as error:  # the client passes on errors of whatever HTTP library it uses; they share no ancestor
        said = " ".join(str(error).split())[:160]
        raise TrainError(
            f"cannot fetch {model} from the hub ({type(error).__name__}: {said}); where its license must "
            f"be accepted first, log in with `hf auth login`; offline, download {HUB_FILE} of {repository} elsewhere "
            f"and give it: {BY_HAND}"
        ) from error


def normalisation(vit: ViT) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation per RGB channel, in 0..1, that the teacher's own configuration names."""
    return vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"]
