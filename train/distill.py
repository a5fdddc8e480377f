"""The distillation itself: a student follows the curriculum's target block of a frozen teacher."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import lightning
import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from train import curriculum, ranks, recipe, slicing
from train.clock import Clock
from train.data import Augmenter
from train.errors import TrainError
from train.losses import DISTANCES, TargetScale
from train.similarity import MEASURES
from train.students import make_student
from train.teacher import Teacher, Tokens

NO_DECAY = ("pos_embed", "cls_token", "reg_token")  # tokens and positions are no weights to shrink


class View(NamedTuple):
    """One target of a step as the student sees it: its own tokens (B, N, D_s), g of patches (B, N, D_t) and CLS."""

    student: Tensor
    patches: Tensor
    cls: Tensor


class Distiller(lightning.LightningModule):
    """Student, projection and curriculum; `training_step` is one step of LEAP (arXiv 2606.19483).

    The projection g: D_s -> D_t is one linear layer, shared by patches, CLS and every target block, never reset.
    Only layer-wise rivals have more: `others[i]` projects the student's block that stands for `targets[i]`.
    Curriculum and target statistics are part of the checkpoint.
    """

    def __init__(self, spec: recipe.Recipe, teacher: Teacher, mean: tuple, std: tuple, steps_per_epoch: int) -> None:
        super().__init__()
        self.spec, self.teacher = spec, teacher
        self.student = make_student(spec.student, pixels=spec.preprocessing.size)
        self.curriculum = curriculum.make(
            spec.curriculum, teacher.blocks, steps_per_epoch=steps_per_epoch, epochs=spec.epochs
        )
        self.projection = _projection(self.student.embed_dim, teacher.width)
        extra = len(self.curriculum.targets) - 1 if self.curriculum.layerwise else 0
        self.others = nn.ModuleList(_projection(self.student.embed_dim, teacher.width) for _ in range(extra))
        self.scale = TargetScale(teacher.blocks, teacher.width) if spec.loss.targets == "standardised" else None
        self.distance = DISTANCES[spec.loss.distance]
        self.measure = MEASURES[spec.curriculum.similarity]
        self.steps = spec.epochs * steps_per_epoch
        self.steps_per_epoch = steps_per_epoch
        self.augment = Augmenter(spec.augment, spec.preprocessing.size, spec.seed)
        self.register_buffer("pixel_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.block_images = [0] * teacher.blocks  # images for which blocks 1..k of the teacher were run
        self.calibration_images = 0
        self.clock = Clock()
        self.layout = ranks.layout()
        self.pieces: list[ranks.Average] = []  # similarities of the pieces of the present step

    @torch.no_grad()
    def start_from_teacher(self, pixels: Tensor) -> None:
        """Begin with the teacher's weights, cut to size (`train.slicing`); pixels uint8 (B, H, W, 3): training photos.

        Raises TrainError for a teacher that the student cannot start from.
        """
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self.pixel_mean) / self.pixel_std
        slicing.start_from_teacher(self.student, self.projection, self.teacher.vit, self.teacher.resized(images))
        if self.scale is not None:  # g is of standardised tokens
            scale, last = TargetScale(self.teacher.blocks, self.teacher.width), self.teacher.blocks
            scale.update(self.teacher(images, last), last)
            deviation = scale.deviation(last)[0]
            self.projection.weight.div_(deviation[:, None])
            self.projection.bias.sub_(scale.mean[last - 1, 0]).div_(deviation)

    def training_step(self, pixels: Tensor, batch: int) -> Tensor:
        """pixels uint8 (B, H, W, 3) -> the loss. Advances the curriculum after the similarity is known.

        B photos are the step's batch, or this process's piece of it: `batch` counts the pieces of an epoch.
        """
        self.clock.batch_arrived()
        turn, pieces = batch % self.spec.accumulate, self.layout.processes
        images = self.augment(pixels, self.global_step, turn * pieces + self.layout.rank)
        images = (images - self.pixel_mean) / self.pixel_std
        views = self.views(images)
        if not self.curriculum.started:
            self._calibrate(images, views[-1])
        losses = []
        for view, target, tokens in zip(
            views, self.curriculum.targets, self.teacher.at(images, self.curriculum.targets), strict=True
        ):
            wanted = Tokens(self._match_grid(tokens.patches, view.patches).float(), tokens.cls.float())
            if self.scale is not None:
                self.scale.update(wanted, target)
                wanted = self.scale.standardise(wanted, target)
            losses.append(
                self.distance(view.patches, wanted.patches)
                + self.spec.loss.cls_weight * self.distance(view.cls, wanted.cls)
            )
            if self.spec.loss.logits_weight and target == self.teacher.blocks:
                losses[-1] = losses[-1] + self.spec.loss.logits_weight * self._class_divergence(view.cls, tokens.cls)
        loss = torch.stack(losses).mean()
        similarity = self.measure(views[-1].student, views[-1].patches, wanted.patches)
        return self._decide(loss, similarity, len(pixels), last=turn == self.spec.accumulate - 1)

    def _decide(self, loss: Tensor, similarity: Tensor, images: int, *, last: bool) -> Tensor:
        """Share loss and similarity with the other processes; after the step's last piece, let the curriculum decide.

        Returns the loss weighted so that the mean over processes of its gradients is that of the whole batch.
        """
        block, everywhere, mean = self.curriculum.block, images, loss.detach()
        if self.layout.processes > 1:
            everywhere = int(ranks.total(torch.tensor([images])))
            loss = loss * (images * self.layout.processes / everywhere)
            mean = ranks.total(loss.detach()[None])[0].float() / self.layout.processes
        self.block_images[block - 1] += everywhere
        self.pieces.append(ranks.average(similarity[None], images))
        if last:
            average, missing = ranks.mean_of_finite(self.pieces)
            self.pieces.clear()
            self.curriculum.dropped += missing
            self.curriculum.observe(self.global_step + 1, average)
            self._log(mean, average, block, everywhere * self.spec.accumulate)
        return loss

    def views(self, images: Tensor) -> list[View]:
        """Normalised images (B, 3, H, W) -> a view per target of the curriculum, float32; the deepest is last.

        The deepest view is of the student's final tokens; the others are of the blocks at the targets' depths.
        """
        prefix = self.student.num_prefix_tokens
        if not self.others:
            inner, final = [], self.student.forward_features(images)  # (B, prefix + N, D_s)
        else:
            ours, theirs = len(self.student.blocks), self.teacher.blocks
            at = [max(1, round(block * ours / theirs)) - 1 for block in self.curriculum.targets[:-1]]
            final, features = self.student.forward_intermediates(
                images, indices=sorted(set(at)), return_prefix_tokens=True, norm=True, output_fmt="NLC"
            )
            by_block = dict(zip(sorted(set(at)), features, strict=True))
            inner = [torch.cat([by_block[block][1], by_block[block][0]], 1) for block in at]
        views = []
        for tokens, projection in zip([*inner, final], [*self.others, self.projection], strict=True):
            projected = projection(tokens).float()  # (B, prefix + N, D_t)
            views.append(View(tokens[:, prefix:], projected[:, prefix:], projected[:, 0]))
        return views

    def _class_divergence(self, projected: Tensor, cls: Tensor) -> Tensor:
        """KL of the classes that the teacher's head tells from `projected`, from those of its own `cls`; (B, D_t)."""
        if self.scale is not None:
            projected = self.scale.restore_cls(projected, self.teacher.blocks)
        ours, theirs = (self.teacher.head(space).float().log_softmax(-1) for space in (projected, cls.float()))
        return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)

    @torch.no_grad()
    def _calibrate(self, images: Tensor, view: View) -> None:
        """Run all blocks once, on the first batch, to find the one that the fresh student is most similar to."""
        every = self.teacher.every_block(images)
        found = [
            self.measure(view.student, view.patches, self._match_grid(tokens.patches, view.patches)) for tokens in every
        ]
        self.curriculum.calibrate(ranks.average(torch.stack(found), len(images)).mean.tolist())
        self.calibration_images += int(ranks.total(torch.tensor([len(images)])))

    @staticmethod
    def _match_grid(target: Tensor, patches: Tensor) -> Tensor:
        """The teacher's patch map on the student's grid (same when the patches are of one size)."""
        if target.shape[1] == patches.shape[1]:
            return target
        theirs, ours = math.isqrt(target.shape[1]), math.isqrt(patches.shape[1])
        grid = target.transpose(1, 2).unflatten(2, (theirs, theirs)).float()  # (B, D_t, h, w)
        resized = functional.interpolate(grid, (ours, ours), mode="bilinear", antialias=True)
        return resized.flatten(2).transpose(1, 2)

    def trained(self) -> nn.ModuleDict:
        """What the optimiser moves: the student and its projections."""
        return nn.ModuleDict({"student": self.student, "projection": self.projection, "others": self.others})

    def configure_optimizers(self) -> dict[str, Any]:
        """The recipe's timm optimiser with linear warm-up and cosine, stepped per batch; teacher left out."""
        spec = self.spec.optimizer
        # A fused step unscales fp16 gradients itself, after they were clipped: it would clip scaled ones.
        fused = {"fused": self.spec.precision != "fp16"}
        extra = {"momentum": spec.momentum} if spec.name == "lars" else fused
        groups = param_groups_weight_decay(
            self.trained(), spec.weight_decay, no_weight_decay_list=[f"*.{name}" for name in NO_DECAY]
        )
        optimizer = create_optimizer_v2(groups, opt=spec.name, lr=spec.lr, weight_decay=0.0, **extra)
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
            nn.utils.clip_grad_norm_(list(self.trained().parameters()), self.spec.optimizer.clip)

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
            "block_images": list(self.block_images),
            "calibration_images": self.calibration_images,
            "clock": self.clock.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue where the checkpoint stopped. Raises TrainError when it is of another kind of run."""
        if "leap" not in checkpoint:
            raise TrainError("this checkpoint holds no curriculum: it was not written by `python -m train`")
        saved = checkpoint["leap"]
        self.curriculum.load_state_dict(saved["curriculum"])
        self.block_images = list(saved["block_images"])
        self.calibration_images = saved["calibration_images"]
        self.clock.load_state_dict(saved["clock"])

    def on_fit_start(self) -> None:
        """Choose the attention of student and teacher for the device that they are on."""
        for vit in (self.student, self.teacher.vit):
            plain_attention(vit, self.device.type == "cpu")
        if self.spec.compile:
            # A graph for each block at which the teacher stops, with and without the last and smaller batch's shape.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * self.teacher.blocks)
            for vit, name in self._compiled():
                setattr(vit, name, torch.compile(getattr(vit, name)))

    def on_fit_end(self) -> None:
        """What is evaluated, counted and saved is the plain student again."""
        if self.spec.compile:
            for vit, name in self._compiled():
                delattr(vit, name)  # the class's own method comes to light

    def _compiled(self) -> list[tuple[nn.Module, str]]:
        ours = "forward_intermediates" if len(self.others) else "forward_features"
        return [(self.student, ours), (self.teacher.vit, "forward_intermediates")]

    def on_train_epoch_start(self) -> None:
        """The pause between epochs (checkpoint, evaluation) is no training time."""
        self.clock.start()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The step is over: what passes until the next batch arrives is waiting for data."""
        self.clock.step_ended()

    def _log(self, loss: Tensor, similarity: float, block: int, images: int) -> None:
        shown = {"loss": loss.detach(), "block": float(block), "similarity": similarity}
        if rate := self.clock.rate(images):
            shown["images/s"] = rate
            shown["data_wait"] = self.clock.wait_share
        self.log_dict(shown, prog_bar=True)


def plain_attention(vit: nn.Module, plain: bool) -> None:
    """Attention as matrix products and a softmax, or by torch's fused kernel: the same numbers but for rounding.

    On a CPU the fused kernel's backward pass takes a third of a small student's step (`python -m train.speed`), and a
    fifth of a small teacher's forward pass.
    """
    for block in vit.blocks:
        if hasattr(getattr(block, "attn", None), "fused_attn"):  # not every teacher's attention has the choice
            block.attn.fused_attn = not plain


def _projection(student: int, teacher: int) -> nn.Linear:
    layer = nn.Linear(student, teacher)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
