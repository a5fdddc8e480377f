"""A frozen ViT that stops at a block: blocks deeper than the target are never run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
EXAMPLE = "vit_small_patch14_dinov2 or vit_tiny_patch16_224"
_NO_BLOCKS = f"{{}} is not a ViT whose blocks LEAP can follow; choose one with a CLS token, such as {EXAMPLE}"

ViT = Any  # a model of timm, of whichever family: its parts have no common type


class Tokens(NamedTuple):
    """What a block says about B images: patches (B, N, D) and CLS (B, D), both after the model's final norm."""

    patches: Tensor
    cls: Tensor


class Teacher(nn.Module):
    """A timm ViT, frozen and in evaluation mode.

    blocks: how many it has. width: D_t. grid: patches per side. Blocks are counted from 1.
    Tokens have passed the model's final norm. Models that pool patches keep that norm behind the pooling (`fc_norm`);
    it is applied to each token here, since the residual stream itself is no target: a few channels dwarf the rest.
    The few that were trained without any final norm (RADIO, PE spatial) give their tokens as they are.
    Photos of another size than `pixels`, the side that its positions are for, are resized to it first.
    """

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        _check(vit)
        self.vit = vit.eval().requires_grad_(False)
        self.blocks = len(vit.blocks)
        self.width = int(vit.embed_dim)
        self.grid = int(vit.patch_embed.grid_size[0])
        self.pixels = int(vit.patch_embed.img_size[0])
        self.classes = int(vit.num_classes)
        self.late_norm = isinstance(vit.norm, nn.Identity)

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

    def head(self, cls: Tensor) -> Tensor:
        """The teacher's own classifier on CLS tokens (B, D_t) of its last block -> logits (B, classes).

        Its weights are frozen; a gradient flows to `cls`, which may be a student's.
        Raises TrainError where it has none that reads CLS alone.
        """
        return classifier(self.vit)(cls)

    def resized(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) of any size -> (B, 3, pixels, pixels)."""
        if images.shape[-2:] == (self.pixels, self.pixels):
            return images
        return functional.interpolate(images, (self.pixels, self.pixels), mode="bicubic", antialias=True)

    def _tokens(self, images: Tensor, indices: list[int], *, stop_early: bool) -> list[Tokens]:
        features = self.vit.forward_intermediates(
            self.resized(images),
            indices=indices,
            return_prefix_tokens=True,
            norm=True,
            stop_early=stop_early,
            output_fmt="NLC",
            intermediates_only=True,
        )
        tokens = [Tokens(patches, prefix[:, 0]) for patches, prefix in features]  # CLS, then registers, which are left
        if not self.late_norm:
            return tokens
        return [Tokens(self.vit.fc_norm(patches), self.vit.fc_norm(cls)) for patches, cls in tokens]


def classifier(vit: ViT) -> nn.Linear:
    """The linear classifier of a ViT that reads its CLS token (after the final norm).

    Raises TrainError for a ViT without one: a student's CLS is all that its projection offers to a head.
    """
    name, mend = vit.pretrained_cfg.get("architecture", type(vit).__name__), "leave it out with teacher.head=null"
    if vit.num_classes == 0 or not isinstance(vit.head, nn.Linear):
        raise TrainError(f"{name} has no classifier that teacher.head could export; {mend}")
    if hasattr(vit, "head_dist"):
        raise TrainError(f"the classifier of {name} reads a distillation token beside CLS; {mend}")
    if vit.global_pool != "token":
        raise TrainError(f"the classifier of {name} reads pooled patches (`{vit.global_pool}`), not CLS; {mend}")
    if not isinstance(vit.norm, nn.Identity) and not isinstance(getattr(vit, "fc_norm", None), nn.Identity | None):
        raise TrainError(f"the classifier of {name} has a second norm before it; {mend}")
    return vit.head


def check_teacher(spec: recipe.TeacherSettings, pixels: int, classes: int | None = None) -> ViT:
    """Refuse what the model's shape, or a missing file, tells before weights are fetched. Arguments as of `make_vit`.

    Returns the model without memory (on torch's `meta` device): its shapes. Raises TrainError.
    """
    pixels = spec.pixels or pixels
    if not timm.is_model(spec.model):
        close = timm.list_models(f"*{spec.model}*")[:3]
        raise TrainError(f"timm has no model {spec.model!r}" + (f"; near: {', '.join(close)}" if close else ""))
    if timm.model_entrypoint(spec.model).__module__ not in FAMILIES:
        raise TrainError(_NO_BLOCKS.format(spec.model))
    if loading := sorted(LOADING & set(spec.options)):
        raise TrainError(
            f"teacher.options.{loading[0]}: weights are loaded by teacher.checkpoint=FILE.safetensors or "
            "teacher.pretrained=true, which open no pickle"
        )
    with torch.device("meta"):  # shapes only
        vit = _create(spec, pixels, **({} if classes is None else {"num_classes": classes}))
    _check(vit)
    patch = vit.patch_embed.patch_size[0]
    if pixels % patch:
        raise TrainError(
            f"the teacher's patches of {patch} px do not tile images of {pixels} px; "
            f"choose a preprocessing.size (or teacher.pixels) that is a multiple of {patch}"
        )
    if spec.head is not None:
        classifier(vit)
    _local_weights(spec)
    return vit


def make_vit(spec: recipe.TeacherSettings, pixels: int, classes: int | None = None) -> ViT:
    """The timm model of a recipe, for images of its own `pixels`, else of `pixels` px.

    Position embeddings are resampled, weights loaded strictly. timm's own filters translate the key names of
    other projects, such as DINOv2's and DINOv3's own files.
    classes: outputs of the classifier (only for a teacher that is trained here). Raises TrainError.
    """
    check_teacher(spec, pixels, classes)
    pixels = spec.pixels or pixels
    outputs = {} if classes is None else {"num_classes": classes}
    file = fetch_weights(spec.model) if spec.pretrained else _local_weights(spec)
    if file is None:
        return _create(spec, pixels, **outputs)
    # timm drops a classifier, and loads leniently, unless the configuration expects this number of classes. Older
    # versions also use the loader that the configuration names for another format (`custom_load`) for any file.
    expected = {**spec.options, **outputs}.get("num_classes")
    overlay = {"file": str(file), "custom_load": False} | ({} if expected is None else {"num_classes": expected})
    return _create(spec, pixels, **outputs, pretrained=True, pretrained_cfg_overlay=overlay)


def normalisation(vit: ViT) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation per RGB channel, in 0..1, that the teacher's own configuration names."""
    return vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"]


def _create(spec: recipe.TeacherSettings, pixels: int, **arguments: object) -> ViT:
    try:
        return timm.create_model(spec.model, img_size=pixels, **{**spec.options, **arguments})
    except SafetensorError as error:
        raise TrainError(
            f"{spec.checkpoint or spec.model} is not a safetensors file ({error}); download it again"
        ) from error
    except OSError as error:
        raise TrainError(f"cannot read the teacher's weights: {error}") from error
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        # Whatever timm's key filters and constructors stumble over in a file or an option that they did not expect.
        first = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainError(
            f"the teacher does not fit {spec.model} at {pixels} px: {first}; "
            "check teacher.model, teacher.options and the file of teacher.checkpoint against each other"
        ) from error


def _local_weights(spec: recipe.TeacherSettings) -> Path | None:
    if spec.checkpoint is None:
        return None
    path = Path(spec.checkpoint)
    if not path.is_file():
        raise TrainError(f"there is no teacher file {path}; give teacher.checkpoint=FILE.safetensors")
    if path.suffix != ".safetensors":
        raise TrainError(f"{path.name} is not a .safetensors file; other checkpoints are pickles and are never opened")
    return path


def _check(vit: ViT) -> None:
    name = type(vit).__name__
    if not hasattr(vit, "blocks") or not hasattr(vit, "forward_intermediates"):
        raise TrainError(_NO_BLOCKS.format(name))
    if getattr(vit, "cls_token", None) is None:
        raise TrainError(
            f"this {name} has no CLS token, which the loss needs; choose a ViT with one, such as {EXAMPLE}"
        )


def fetch_weights(model: str) -> Path:
    """The weights of a timm model, from the hub or from its local cache. Raises TrainError."""
    config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    repository = config.hf_hub_id if config is not None else None
    if not repository:
        raise TrainError(
            f"timm names no safetensors weights for {model}; "
            "give them: teacher.pretrained=false teacher.checkpoint=FILE.safetensors"
        )
    try:
        return Path(hf_hub_download(repository, config.hf_hub_filename or HUB_FILE))
    except Exception as error:  # the client passes on errors of whatever HTTP library it uses; they share no ancestor
        reason = " ".join(str(error).split())[:160]
        raise TrainError(
            f"cannot fetch {model} from the hub ({type(error).__name__}: {reason}); where its licence must be "
            f"accepted first, log in with `hf auth login`; offline, download {HUB_FILE} of {repository} elsewhere and "
            "give it: teacher.pretrained=false teacher.checkpoint=FILE.safetensors"
        ) from error
