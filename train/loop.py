"""The training loop: batches in; a trained student, checkpoints and a log out."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from lightning.fabric import Fabric
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from train import checkpoint, log, processes
from train.clock import Clock
from train.data.augment import Augmenter
from train.data.sampling import Epochs, Mixture, read_ahead
from train.errors import TrainError
from train.method.curriculum import Curriculum
from train.method.distiller import Distiller
from train.method.schedule import schedule
from train.method.student import plain_attention
from train.method.targets import TargetStore
from train.method.teacher import Teacher, normalisation
from train.recipe import Recipe

NO_DECAY = ("*.pos_embed", "*.cls_token", "*.reg_token", "classifier.*")  # not weights to shrink


@dataclass
class Training:
    """The state that steps change.

    block_images: for each block k, images for which the target was k. calibration_images: those that all blocks saw.
    """

    distiller: Distiller
    curriculum: Curriculum
    step: int = 0
    block_images: list[int] = field(default_factory=list)
    calibration_images: int = 0
    clock: Clock = field(default_factory=Clock)


def train(
    recipe: Recipe,
    teacher: Teacher,
    training: Training,
    photos: Mixture,
    epochs: Epochs,
    folder: Path,
    fabric: Fabric,
    *,
    known: TargetStore | None = None,
    resume: bool = False,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train `training.distiller` on photos; checkpoints and log.csv are in `folder`.

    known: what the teacher's last block says of views, where the recipe keeps it. after_epoch: called with the number
    of completed epochs. Raises TrainError for a loss that is not finite. Ctrl-C and SIGTERM save a checkpoint, then
    raise KeyboardInterrupt.
    """
    mine, device = processes.layout(), fabric.device
    distiller, curriculum, clock = training.distiller.to(device), training.curriculum, training.clock
    for vit in (distiller.student, teacher.to(device).vit):
        plain_attention(vit, device.type == "cpu")
    optimizer = make_optimizer(recipe, distiller)
    share, steps, every = schedule(recipe, epochs.steps), recipe.epochs * epochs.steps, recipe.curriculum.every
    training.block_images = training.block_images or [0] * teacher.blocks
    if resume and (saved := checkpoint.latest(folder / "checkpoints")):
        state = checkpoint.load(saved)
        _check_epochs(recipe, epochs.steps, state)
        _restore(training, optimizer, fabric, state)
        print(f"resumed after step {training.step} of {steps}")
    model, optimizer = fabric.setup(distiller, optimizer)
    augment = Augmenter(recipe.augment, recipe.view_pixels, recipe.seed, *normalisation(teacher.vit))
    place = mine.among(by_host=recipe.data.by_host)
    pieces = epochs.pieces(recipe.epochs, training.step, *place, recipe.accumulate)
    batches = read_ahead(photos, pieces, pin=device.type == "cuda")
    written = log.Log(folder / log.FILE, training.step) if mine.first else None
    saved_at, since = time.monotonic(), training.step
    measured: list[Tensor] = []  # loss and similarity of each piece since the curriculum last decided
    distiller.train()
    bar = tqdm(total=steps, initial=training.step, desc=recipe.curriculum.strategy, mininterval=1)
    with closing(batches), bar, _stop_signals() as stopped:
        clock.start()
        while training.step < steps:
            for piece in range(recipe.accumulate):
                views, pixels, aspect = next(batches)
                clock.batch_arrived()
                pixels = pixels.to(device, non_blocking=True)  # uint8 (B, side, side, 3)
                images = augment(pixels, aspect, views)  # (B, 3, H, W)
                if not curriculum.history:
                    _calibrate(training, teacher, images, fabric)
                targets = curriculum.targets
                with fabric.autocast():
                    if known and targets == (teacher.blocks,):
                        tokens = [known.at(views, images)]
                    else:
                        tokens = teacher.at(images, targets)  # no block behind the deepest target is run
                with fabric.no_backward_sync(model, enabled=piece < recipe.accumulate - 1):
                    loss, similarity = model(images, tokens, targets)
                    fabric.backward(loss / recipe.accumulate)
                measured.append(torch.stack([loss.detach().float(), similarity.float()]))
            if recipe.optimizer.clip:
                fabric.clip_gradients(model, optimizer, max_norm=recipe.optimizer.clip, error_if_nonfinite=False)
            rate = recipe.optimizer.lr * share(training.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
            training.step += 1
            training.block_images[curriculum.block - 1] += recipe.batch
            clock.step_ended()
            bar.update()
            ended = training.step % epochs.steps == 0
            if not (training.step % every == 0 or ended or training.step == steps):
                continue

            # From here on the step waits for the device: the curriculum decides, and observers are notified.
            means, left_out = processes.mean_of_finite(torch.stack(measured))
            loss_mean, alike = means.tolist()
            first = training.step + 1 - len(measured) // recipe.accumulate
            measured.clear()
            # In fp16 a step whose gradients overflow is left out, and the next one may be well again.
            if math.isnan(loss_mean) or (left_out[0] and recipe.precision != "fp16"):
                raise TrainError(
                    f"the loss is not finite at step {training.step} (it was before step {first}): lower "
                    "optimizer.lr, or use another precision"
                )
            block = curriculum.block
            curriculum.observe(training.step, alike)
            bar.set_postfix_str(f"loss {loss_mean:.3f}, block {block}, similarity {alike:.3f}", refresh=False)
            if written and (training.step - since >= log.EVERY or training.step == steps):
                speed = clock.rate(recipe.batch) or 0.0
                written.write(log.LogRow(training.step, loss_mean, block, alike, rate, speed, clock.wait_share))
                since = training.step
            stop = processes.any_of(stopped())
            if stop or training.step == steps or time.monotonic() - saved_at >= 60 * recipe.checkpoint_minutes:
                if mine.first:
                    checkpoint.save(_state(recipe, training, optimizer, fabric), folder / "checkpoints")
                saved_at = time.monotonic()
            if stop and training.step < steps:
                raise KeyboardInterrupt
            if ended:
                if after_epoch:
                    after_epoch(training.step // epochs.steps)
                clock.start()  # the pause between epochs is not training time


def make_optimizer(recipe: Recipe, distiller: Distiller) -> Optimizer:
    """The recipe's timm optimizer of student, projections and fitted classifier.

    Biases, norms, positions, tokens and the classifier do not decay.
    """
    spec = recipe.optimizer
    # A fused step unscales fp16 gradients itself, after they were clipped: it would clip scaled ones.
    extra = {"momentum": spec.momentum} if spec.name == "lars" else {"fused": recipe.precision != "fp16"}
    groups = param_groups_weight_decay(distiller, spec.weight_decay, no_weight_decay_list=NO_DECAY)
    return create_optimizer_v2(groups, opt=spec.name, lr=spec.lr, weight_decay=0.0, **extra)


def _calibrate(training: Training, teacher: Teacher, images: Tensor, fabric: Fabric) -> None:
    """Run all blocks once, on the first piece, to find the one that the fresh student is most similar to."""
    with fabric.autocast():
        found = training.distiller.similarities(images, teacher.at(images, range(1, teacher.blocks + 1)))
    training.curriculum.calibrate(processes.mean_of_finite(found[None])[0].tolist())
    training.calibration_images += len(images) * processes.layout().processes


def check_resume(recipe: Recipe, steps_per_epoch: int, folder: Path) -> None:
    """Refuse a number of epochs that the run in `folder` cannot be resumed with. Raises TrainError."""
    if saved := checkpoint.latest(folder / "checkpoints"):
        _check_epochs(recipe, steps_per_epoch, checkpoint.load(saved))


def _check_epochs(recipe: Recipe, steps_per_epoch: int, state: dict[str, Any]) -> None:
    """Refuse another number of epochs once the rate has begun to fall, or too few for what is done. Raises TrainError.

    Until then the rate of each step is the same for any number of epochs: a run can be ended early, or go on longer.
    """
    step, before = state["step"], msgspec.structs.replace(recipe, epochs=state["epochs"])
    if before.epochs == recipe.epochs:
        return
    done = math.ceil(step / steps_per_epoch)
    if any(schedule(each, steps_per_epoch)(max(0, step - 1)) != 1 for each in (before, recipe)):
        raise TrainError(
            f"this run, after {done} epochs, cannot change from {before.epochs} epochs to {recipe.epochs}: "
            "its learning rate would jump. It can change while the rate is constant (optimizer.decay=last-block)"
        )


def _state(recipe: Recipe, training: Training, optimizer: Optimizer, fabric: Fabric) -> dict[str, Any]:
    return {
        "step": training.step,
        "epochs": recipe.epochs,
        "block_images": training.block_images,
        "calibration_images": training.calibration_images,
        "distiller": training.distiller.state_dict(),
        "curriculum": training.curriculum.state_dict(),
        "clock": training.clock.state_dict(),
        "optimizer": optimizer.state_dict(),
        "precision": fabric.strategy.precision.state_dict(),  # the loss scale of fp16
    }


def _restore(training: Training, optimizer: Optimizer, fabric: Fabric, state: dict[str, Any]) -> None:
    for name in ("step", "block_images", "calibration_images"):
        setattr(training, name, state[name])
    training.curriculum.load_state_dict(state["curriculum"])
    training.distiller.load_state_dict(state["distiller"])
    training.clock.load_state_dict(state["clock"])
    optimizer.load_state_dict(state["optimizer"])
    fabric.strategy.precision.load_state_dict(state["precision"])


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM become a flag while the loop runs: a second one ends the process as it is."""
    caught: list[int] = []

    def catch(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # otherwise the caller handles signals
        before = {kind: signal.signal(kind, catch) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
