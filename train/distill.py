"""The distillation itself: a student follows the curriculum's target block of a frozen teacher."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from train import recipe
from train.curriculum import STRATEGIES, Curriculum, Last
from train.data import Augmenter
from train.errors import TrainError
from train.similarity import linear_cka
from train.students import make_student
from train.teacher import Teacher, Tokens


class TargetScale(nn.Module):
    """Running mean and deviation per block and channel of the teacher's tokens, patches and CLS apart.

    The average of the first 100 batches on a block, then an exponential one: the teacher is frozen, so it settles.
    """

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(blocks, 2, width))
        self.register_buffer("variance", torch.ones(blocks, 2, width))
        self.register_buffer("batches", torch.zeros(blocks))

    @torch.no_grad()
    def update(self, tokens: Tokens, block: int) -> None:
        """Take a batch of the target `block` into its averages."""
        at = block - 1
        self.batches[at] += 1
        weight = max(1 / float(self.batches[at]), 0.01)
        for kind, rows in enumerate((tokens.patches.flatten(0, 1), tokens.cls)):
            variance, mean = torch.var_mean(rows.float(), dim=0, correction=0)
            self.mean[at, kind].lerp_(mean, weight)
            self.variance[at, kind].lerp_(variance, weight)

    def standardise(self, tokens: Tokens, block: int) -> Tokens:
        """Tokens of `block` with about zero mean and unit deviation per channel."""
        mean, deviation = self.mean[block - 1], self.deviation(block)
        return Tokens((tokens.patches - mean[0]) / deviation[0], (tokens.cls - mean[1]) / deviation[1])

    def deviation(self, block: int) -> Tensor:
        """Deviation (2, width): of patch channels, of CLS channels."""
        return self.variance[block - 1].sqrt() + 1e-4


class Distiller(lightning.LightningModule):
    """Student, projection and curriculum; `training_step` is one step of LEAP (arXiv 2606.19483).

    The projection g: D_s -> D_t is one linear layer, shared by patches, CLS and every target block, never reset.
    Curriculum and target statistics are part of the checkpoint.
    """

    def __init__(self, spec: recipe.Recipe, teacher: Teacher, mean: tuple, std: tuple, steps_per_epoch: int) -> None:
        super().__init__()
        self.spec, self.teacher = spec, teacher
        self.student = make_student(spec.student.size, pixels=spec.preprocessing.size, patch=spec.student.patch)
        self.projection = nn.Linear(self.student.embed_dim, teacher.width)
        nn.init.trunc_normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)
        self.scale = TargetScale(teacher.blocks, teacher.width) if spec.loss.targets == "standardised" else None
        self.curriculum = make_curriculum(spec.curriculum, teacher.blocks, steps_per_epoch)
        self.steps = spec.epochs * steps_per_epoch
        self.steps_per_epoch = steps_per_epoch
        self.augment = Augmenter(spec.augment, spec.preprocessing.size, spec.seed)
        self.register_buffer("pixel_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.block_steps = [0] * teacher.blocks  # optimiser steps with blocks 1..k of the teacher run
        self.calibrations = 0
        self.train_seconds = 0.0
        self._clock: float | None = None

    def training_step(self, pixels: Tensor, _: int) -> Tensor:
        """pixels uint8 (B, H, W, 3) -> the loss. Advances the curriculum after the similarity is known."""
        images = (self.augment(pixels, self.global_step) - self.pixel_mean) / self.pixel_std
        patches, cls = self.project(images)
        if not self.curriculum.started:
            self._calibrate(images, patches)
        block = self.curriculum.block
        target = self.teacher(images, block)
        target = Tokens(self._match_grid(target.patches, patches).float(), target.cls.float())
        if self.scale is not None:
            self.scale.update(target, block)
            target = self.scale.standardise(target, block)
        loss = functional.mse_loss(patches, target.patches)
        loss = loss + self.spec.loss.cls_weight * functional.mse_loss(cls, target.cls)
        similarity = linear_cka(patches, target.patches).item()
        self.block_steps[block - 1] += 1
        self.curriculum.observe(self.global_step + 1, similarity)
        self._log(loss, similarity, block, len(pixels))
        return loss

    def project(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) -> g(patch tokens) (B, N, D_t) and g(CLS) (B, D_t), float32."""
        tokens = self.projection(self.student.forward_features(images)).float()  # (B, 1 + N, D_t)
        return tokens[:, 1:], tokens[:, 0]

    @torch.no_grad()
    def _calibrate(self, images: Tensor, patches: Tensor) -> None:
        """Run all blocks once, on the first batch, to find the one that the fresh student is most similar to."""
        every = self.teacher.every_block(images)
        self.curriculum.calibrate(
            [linear_cka(patches, self._match_grid(tokens.patches, patches)).item() for tokens in every]
        )
        self.calibrations += 1

    @staticmethod
    def _match_grid(target: Tensor, patches: Tensor) -> Tensor:
        """The teacher's patch map on the student's grid (same when the patches are of one size)."""
        if target.shape[1] == patches.shape[1]:
            return target
        theirs, ours = math.isqrt(target.shape[1]), math.isqrt(patches.shape[1])
        grid = target.transpose(1, 2).unflatten(2, (theirs, theirs)).float()  # (B, D_t, h, w)
        resized = functional.interpolate(grid, (ours, ours), mode="bilinear", antialias=True)
        return resized.flatten(2).transpose(1, 2)

    def configure_optimizers(self) -> dict[str, Any]:
        """The recipe's timm optimiser with linear warm-up and cosine, stepped per batch; teacher left out."""
        spec = self.spec.optimizer
        trained = nn.ModuleDict({"student": self.student, "projection": self.projection})
        extra = {"momentum": spec.momentum} if spec.name == "lars" else {"fused": True}
        optimizer = create_optimizer_v2(
            trained, opt=spec.name, lr=spec.lr, weight_decay=spec.weight_decay, filter_bias_and_bn=True, **extra
        )
        warmup = max(1, round(spec.warmup_epochs * self.steps_per_epoch))

        def share(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            progress = min(1.0, (step - warmup) / max(1, self.steps - warmup))
            return spec.final_share + (1 - spec.final_share) * 0.5 * (1 + math.cos(math.pi * progress))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, share), "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient norm as the recipe says."""
        if self.spec.optimizer.clip:
            nn.utils.clip_grad_norm_(
                [*self.student.parameters(), *self.projection.parameters()], self.spec.optimizer.clip
            )

    def folded_projection(self) -> dict[str, Tensor]:
        """g in the teacher's own space, for CLS and for patches: the statistics of the last target are folded in.

        Keys `cls.weight` (D_t, D_s), `cls.bias` (D_t,), `patches.weight`, `patches.bias`.
        """
        weight, bias = self.projection.weight.detach().float(), self.projection.bias.detach().float()
        folded = {}
        for kind, name in enumerate(("patches", "cls")):
            mean, deviation = torch.zeros_like(bias), torch.ones_like(bias)
            if self.scale is not None:
                # Not curriculum.block: a move at the very last step leaves a block whose statistics nobody has seen.
                at = int(self.scale.batches.nonzero().max()) + 1
                mean, deviation = self.scale.mean[at - 1, kind], self.scale.deviation(at)[kind]
            folded[f"{name}.weight"] = deviation[:, None] * weight
            folded[f"{name}.bias"] = deviation * bias + mean
        return folded

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Everything but the frozen teacher, which every run loads anew."""
        full = super().state_dict(*args, **kwargs)
        return {key: value for key, value in full.items() if not key.startswith("teacher.")}

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` gave; strict about everything but the teacher. Raises TrainError."""
        teacher = {f"teacher.{key}": value for key, value in self.teacher.state_dict().items()}
        try:
            return super().load_state_dict({**teacher, **state}, strict=strict, assign=assign)
        except RuntimeError as error:
            raise TrainError(
                "the checkpoint is of another student or teacher; resume with the recipe that began the run, "
                f"or start a new run folder ({' '.join(str(error).split())[:200]})"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The curriculum and the counters that the final report needs travel with the weights."""
        checkpoint["leap"] = {
            "curriculum": self.curriculum.state_dict(),
            "block_steps": list(self.block_steps),
            "calibrations": self.calibrations,
            "train_seconds": self.train_seconds,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue where the checkpoint stopped. Raises TrainError when it is of another kind of run."""
        if "leap" not in checkpoint:
            raise TrainError("this checkpoint holds no curriculum: it was not written by `python -m train`")
        saved = checkpoint["leap"]
        self.curriculum.load_state_dict(saved["curriculum"])
        self.block_steps = list(saved["block_steps"])
        self.calibrations = saved["calibrations"]
        self.train_seconds = saved["train_seconds"]

    def on_train_epoch_start(self) -> None:
        """The pause between epochs (checkpoint, evaluation) is no training time."""
        self._clock = time.perf_counter()

    def _log(self, loss: Tensor, similarity: float, block: int, images: int) -> None:
        now = time.perf_counter()
        seconds = now - (self._clock or now)
        self._clock = now
        self.train_seconds += seconds
        shown = {"loss": loss.detach(), "block": float(block), "similarity": similarity}
        if seconds > 0:
            shown["images/s"] = images / seconds
        self.log_dict(shown, prog_bar=True)


def make_curriculum(spec: recipe.Curriculum, blocks: int, steps_per_epoch: int) -> Curriculum:
    """The strategy of a recipe, its epochs turned into steps."""
    if STRATEGIES[spec.strategy] is Last:
        return Last(blocks)
    return STRATEGIES[spec.strategy](
        blocks,
        threshold=spec.threshold,
        smoothing=spec.smoothing,
        max_steps=max(1, round(spec.max_epochs * steps_per_epoch)),
    )
