"""What learns: a student and its projection into the teacher's space, and how far they are from a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from train.errors import TrainError
from train.method import curriculum, slicing
from train.method.losses import DISTANCES, TargetScale
from train.method.similarity import MEASURES
from train.method.student import grow_from_identity, make_student, tokens_at
from train.method.teacher import Teacher, Tokens
from train.recipe import Recipe


class View(NamedTuple):
    """One target as the student sees it, in the teacher's space: g of patches (B, N, D_t) and of CLS (B, D_t)."""

    patches: Tensor
    cls: Tensor


class Distiller(nn.Module):
    """Student and projections; `forward` is the loss of one step of LEAP (arXiv 2606.19483).

    The projection g: D_s -> D_t is one linear layer, shared by patches, CLS and every target block, never reset.
    Only the layer-wise baseline has more: `others[i]` projects the student's block that stands for `targets[i]`.
    The teacher is not part of the state: every run loads it anew.
    """

    def __init__(self, recipe: Recipe, teacher: Teacher, plan: curriculum.Curriculum) -> None:
        super().__init__()
        self.recipe, self.blocks = recipe, teacher.blocks
        self.student: VisionTransformer = make_student(recipe.student, pixels=recipe.preprocessing.size)
        self.depth: Callable[[int], int] = lambda target: plan.depth(target, len(self.student.blocks))
        self.projection = _projection(self.student.embed_dim, teacher.width)
        extra = len(plan.targets) - 1 if plan.layerwise else 0
        self.others = nn.ModuleList(_projection(self.student.embed_dim, teacher.width) for _ in range(extra))
        self.scale = TargetScale(teacher.blocks, teacher.width) if recipe.loss.targets == "standardised" else None
        self.distance, self.measure = DISTANCES[recipe.loss.distance], MEASURES[recipe.curriculum.similarity]
        self.head = teacher.head  # a method: its weights are not the distiller's
        if getattr(recipe.curriculum, "fresh", "random") == "identity" and plan.grows:
            grow_from_identity(self.student, self.depth(plan.block if plan.started else 1))

    def forward(self, images: Tensor, tokens: list[Tokens], targets: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalised, and the teacher's tokens of each target -> loss and similarity, scalars.

        The similarity is that of the deepest target, detached; statistics of the targets are updated on the way.
        """
        losses = []
        for view, target, found in zip(self.views(images, targets), targets, tokens, strict=True):
            wanted = Tokens(match_grid(found.patches, view.patches).float(), found.cls.float())
            if self.scale is not None:
                self.scale.update(wanted, target)
                wanted = self.scale.standardise(wanted, target)
            loss = self.distance(view.patches, wanted.patches)
            loss = loss + self.recipe.loss.cls_weight * self.distance(view.cls, wanted.cls)
            if self.recipe.loss.logits_weight and target == self.blocks:
                loss = loss + self.recipe.loss.logits_weight * self._class_divergence(view.cls, found.cls)
            losses.append(loss)
        return torch.stack(losses).mean(), self.measure(view.patches, wanted.patches)

    def views(self, images: Tensor, targets: tuple[int, ...]) -> list[View]:
        """Normalised images (B, 3, H, W) -> a view per target, float32; no block deeper than they need is run."""
        prefix = self.student.num_prefix_tokens
        views = []
        found = tokens_at(self.student, images, [self.depth(target) for target in targets])
        for tokens, projection in zip(found, [*self.others, self.projection], strict=True):
            projected = projection(tokens).float()  # (B, prefix + N, D_t)
            views.append(View(projected[:, prefix:], projected[:, 0]))
        return views

    @torch.no_grad()
    def similarities(self, images: Tensor, every_block: list[Tokens]) -> Tensor:
        """To each of the teacher's blocks (L,), at the depth at which the student would run for it."""
        prefix = self.student.num_prefix_tokens
        depths = [self.depth(target) for target in range(1, self.blocks + 1)]
        found = []
        for tokens, theirs in zip(tokens_at(self.student, images, depths), every_block, strict=True):
            projected = self.projection(tokens[:, prefix:]).float()
            wanted = match_grid(theirs.patches, projected)
            found.append(self.measure(projected, wanted))
        return torch.stack(found)

    @torch.no_grad()
    def start_from_teacher(self, teacher: Teacher, images: Tensor) -> None:
        """Begin with the teacher's weights, cut to size (`train.method.slicing`); images (B, 3, H, W), normalised.

        Raises TrainError for a teacher that the student cannot start from.
        """
        slicing.start_from_teacher(self.student, self.projection, teacher.vit, teacher.resized(images))
        if self.scale is not None:  # g is of standardised tokens
            scale, last = TargetScale(teacher.blocks, teacher.width).to(images.device), teacher.blocks
            scale.update(teacher(images, last), last)
            deviation = scale.deviation(last)[0]
            self.projection.weight.div_(deviation[:, None])
            self.projection.bias.sub_(scale.mean[last - 1, 0]).div_(deviation)

    def folded_projection(self) -> dict[str, Tensor]:
        """g in the teacher's own space, for CLS and for patches: the statistics of the last target are folded in.

        Keys `cls.weight` (D_t, D_s), `cls.bias` (D_t,), `patches.weight`, `patches.bias`.
        """
        weight, bias = self.projection.weight.detach().float(), self.projection.bias.detach().float()
        folded = {}
        for kind, name in enumerate(("patches", "cls")):
            mean, deviation = torch.zeros_like(bias), torch.ones_like(bias)
            if self.scale is not None:
                # The deepest block that was a target: a move after the very last step leaves one without statistics.
                at = int(self.scale.batches.nonzero().max()) + 1
                mean, deviation = self.scale.mean[at - 1, kind], self.scale.deviation(at)[kind]
            folded[f"{name}.weight"] = deviation[:, None] * weight
            folded[f"{name}.bias"] = deviation * bias + mean
        return folded

    def load(self, state: dict[str, Tensor]) -> None:
        """Load a state dict. Raises TrainError when it is of another student or teacher."""
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise TrainError(
                "the checkpoint is of another student or teacher; resume with the recipe that began the run, "
                f"or start a new run folder ({' '.join(str(error).split())[:200]})"
            ) from error

    def _class_divergence(self, projected: Tensor, cls: Tensor) -> Tensor:
        """KL of the teacher's classes, read from `projected` (B, D_t), from those of its own `cls` (B, D_t)."""
        if self.scale is not None:
            projected = self.scale.restore_cls(projected, self.blocks)
        ours, theirs = (self.head(space).float().log_softmax(-1) for space in (projected, cls.float()))
        return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def match_grid(target: Tensor, patches: Tensor) -> Tensor:
    """The teacher's patch map (B, N, D_t) on the student's grid (the same when the patches are of one size)."""
    if target.shape[1] == patches.shape[1]:
        return target
    theirs, ours = math.isqrt(target.shape[1]), math.isqrt(patches.shape[1])
    grid = target.transpose(1, 2).unflatten(2, (theirs, theirs)).float()  # (B, D_t, h, w)
    resized = functional.interpolate(grid, (ours, ours), mode="bilinear", antialias=True)
    return resized.flatten(2).transpose(1, 2)


def _projection(student: int, teacher: int) -> nn.Linear:
    layer = nn.Linear(student, teacher)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
