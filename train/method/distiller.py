"""The trained part: a student, its projection into the teacher's space, and the loss against a target."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import cycle

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from train.method import curriculum, slicing
from train.method.losses import MEASURES, TargetScale
from train.method.student import grow_from_identity, make_student, tokens_at
from train.method.teacher import Teacher, Tokens, classifier, resized
from train.recipe import Recipe

# Of the fitted classifier's loss. Only its parameters have a gradient of it, and Adam ignores the factor: this keeps it
# from deciding when the gradients of all are clipped.
CLASSES_WEIGHT = 0.1


class Distiller(nn.Module):
    """Student and projections; `forward` is the loss of one step of LEAP (arXiv 2606.19483).

    The projection g: D_s -> D_t is one linear layer, shared by patches, CLS and every target block, never reset.
    Only the layer-wise baseline has more: `others[i]` projects the student's block that stands for `targets[i]`.
    Where targets are standardized, g of a fresh student gives standardized tokens. A student that starts from its
    teacher, or as a published student, brings a g into the teacher's own space; what it gives is standardized for the
    loss.
    Where the recipe fits the classifier, `classifier` is a copy of the teacher's. While the last block is the target,
    it learns the teacher's probabilities of the classes from the projected CLS, without any effect on the student.
    The teacher is not part of the state: every run loads it again.
    """

    def __init__(self, recipe: Recipe, teacher: Teacher, plan: curriculum.Curriculum) -> None:
        super().__init__()
        self.recipe, self.blocks = recipe, teacher.blocks
        self.student: VisionTransformer = make_student(recipe.student, pixels=recipe.preprocessing.size)
        self.depth: Callable[[int], int] = lambda target: plan.depth(target, len(self.student.blocks))
        self.projection = _projection(self.student.embed_dim, teacher.width)
        others = plan.targets[:-1] if plan.history else ()
        self.others = nn.ModuleList(_projection(self.student.embed_dim, teacher.width) for _ in others)
        self.scale = TargetScale(teacher.blocks, teacher.width) if recipe.loss.targets == "standardised" else None
        self.own_space = self.scale is None or recipe.student.init != "random"  # g's, and the teacher's
        fits = recipe.student.classifier == "fitted"
        self.classifier = copy.deepcopy(classifier(teacher.vit)).requires_grad_() if fits else None
        self._taught = [classifier(teacher.vit)] if fits else []  # a list: no part of the state
        if recipe.student.frozen:
            self.student.requires_grad_(False)
            self.projection.requires_grad_(False)
        self.measure = MEASURES[recipe.curriculum.similarity]
        fresh = getattr(recipe.curriculum, "fresh", "random") if recipe.student.init == "random" else "as it began"
        if fresh == "identity" and plan.same_depth:
            grow_from_identity(self.student, self.depth(plan.block if plan.history else 1))

    def forward(self, images: Tensor, tokens: list[Tokens], targets: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalized, and the teacher's tokens of each target -> loss and similarity, scalars.

        The student sees the images reduced to its own size.

        The similarity is that of the deepest target, detached; statistics of the targets are updated on the way.
        """
        losses = []
        for view, target, found in zip(self.views(images, targets), targets, tokens, strict=True):
            wanted = Tokens(match_grid(found.patches, view.patches).float(), found.cls.float())
            ours, theirs = view.cls, wanted.cls
            if self.scale is not None:
                self.scale.update(wanted, target)
                wanted = self.scale.standardise(wanted, target)
                view = self.scale.standardise(view, target) if self.own_space else view
            of_cls = functional.mse_loss(view.cls, wanted.cls)
            losses.append(functional.mse_loss(view.patches, wanted.patches) + self.recipe.loss.cls_weight * of_cls)
        loss = torch.stack(losses).mean()
        if self.classifier is not None and target == self.blocks:
            loss = loss + CLASSES_WEIGHT * self._divergence(self.classifier, ours, theirs)
        return loss, self.measure(view.patches, wanted.patches)

    def _divergence(self, fitted: nn.Module, ours: Tensor, theirs: Tensor) -> Tensor:
        """Kullback-Leibler divergence of the fitted classifier's probabilities from the teacher's, a scalar in nats.

        ours (B, D_t): CLS as g gives it; its gradient stops here. theirs (B, D_t): the teacher's, of its last block.
        """
        ours = ours.detach()
        if self.scale is not None and not self.own_space:
            ours = self.scale.restore(ours, self.blocks)
        student, teacher = (
            functional.log_softmax(layer(cls).float(), 1) for layer, cls in ((fitted, ours), (self._taught[0], theirs))
        )
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)

    def views(self, images: Tensor, targets: tuple[int, ...]) -> list[Tokens]:
        """Normalized images (B, 3, H, W) -> each target as the student sees it, projected by g; float32."""
        prefix, views = self.student.num_prefix_tokens, []
        images = resized(images, self.recipe.preprocessing.size)
        found = tokens_at(self.student, images, [self.depth(target) for target in targets])
        for tokens, projection in zip(found, cycle([*self.others, self.projection]), strict=False):
            projected = projection(tokens).float()  # (B, prefix + N, D_t)
            views.append(Tokens(projected[:, prefix:], projected[:, 0]))
        return views

    @torch.no_grad()
    def similarities(self, images: Tensor, every_block: list[Tokens]) -> Tensor:
        """To each of the teacher's blocks (L,), at the depth at which the student would run for it."""
        views = self.views(images, tuple(range(1, self.blocks + 1)))
        pairs = [(ours.patches, theirs.patches) for ours, theirs in zip(views, every_block, strict=True)]
        return torch.stack([self.measure(ours, match_grid(theirs, ours)) for ours, theirs in pairs])

    @torch.no_grad()
    def start_from_teacher(self, teacher: Teacher, images: Tensor) -> None:
        """Begin with the teacher's weights, cut to size (`train.method.slicing`); images (B, 3, H, W), normalized."""
        slicing.start_from_teacher(self.student, self.projection, teacher.vit, resized(images, teacher.pixels))

    @torch.no_grad()
    def mix_in(self, start: dict[str, Tensor], share: float) -> None:
        """Move student, projection and fitted classifier towards the weights that they began with: `share` of those.

        Robust fine-tuning (WiSE-FT, Wortsman et al. 2022): this restores what training on a few photos made the student
        forget, and keeps most of what it learned from them. start: from `state_dict`.
        """
        for name, value in self.state_dict().items():
            if name.startswith(("student.", "projection.", "classifier.")):
                value.lerp_(start[name].to(value), share)

    def folded_projection(self) -> dict[str, Tensor]:
        """g in the teacher's own space, for CLS and for patches: the statistics of the last target are folded in.

        Keys `cls.weight` (D_t, D_s), `cls.bias` (D_t,), `patches.weight`, `patches.bias`.
        """
        weight, bias = self.projection.weight.detach().float(), self.projection.bias.detach().float()
        mean, deviation = bias.new_zeros(2, len(bias)), bias.new_ones(2, len(bias))
        if self.scale is not None and not self.own_space:
            # The deepest block that was a target: a move after the very last step leaves one without statistics.
            at = int(self.scale.batches.nonzero().max()) + 1
            mean, deviation = self.scale.mean[at - 1], self.scale.deviation(at)
        folded = {}
        for kind, name in enumerate(("patches", "cls")):
            folded[f"{name}.weight"] = deviation[kind, :, None] * weight
            folded[f"{name}.bias"] = deviation[kind] * bias + mean[kind]
        return folded


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
