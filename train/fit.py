"""The training loop around a distiller: batches in, checkpoints, logs and a progress bar out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from train import checkpoint, ranks
from train.data import EpochSampler, Photos, Shares
from train.distill import Distiller
from train.errors import TrainError
from train.recipe import Recipe


def distil(
    distiller: Distiller,
    photos: Photos,
    folder: Path,
    *,
    resume: bool,
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """Train `distiller` on photos, with checkpoints and logs in `folder`. Raises TrainError when it was stopped."""
    recipe, mine = distiller.spec, ranks.layout()
    order = EpochSampler(len(photos), recipe.seed)
    loader = DataLoader(
        _Pixels(photos.pixels),
        batch_sampler=Shares(order, recipe.batch, mine.rank, mine.processes, recipe.accumulate),
        collate_fn=torch.stack,
    )
    saved = checkpoint.latest(folder / "checkpoints") if resume else None
    print(f"distilling by `{recipe.curriculum.strategy}`" + (f", resumed from {saved.name}" if saved else ""))
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        accelerator="auto",
        devices=mine.here,
        num_nodes=mine.nodes,
        strategy=ranks.strategy(mine),
        use_distributed_sampler=False,
        accumulate_grad_batches=recipe.accumulate,
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[recipe.precision],
        # A new version_N each time: resuming keeps the earlier ones.
        logger=[CSVLogger(folder, name="log"), TensorBoardLogger(folder, name="tensorboard")],
        log_every_n_steps=10,
        callbacks=[
            checkpoint.Saver(folder / "checkpoints", recipe.checkpoint_minutes),
            _SkipDone(),
            TQDMProgressBar(refresh_rate=5),
            *callbacks,
        ],
        plugins=[checkpoint.SafeCheckpointIO(), ranks.environment(mine)],
        enable_model_summary=False,
    )
    train(trainer, distiller, loader, saved)
    distiller.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU, where the evaluation would crawl
    if sum(distiller.block_images) < len(photos) * recipe.epochs:
        raise TrainError(f"training was interrupted; continue it with --resume (checkpoints are in {folder})")


def check_machine(recipe: Recipe, mine: ranks.Layout) -> None:
    """Refuse what this machine or the layout of processes cannot do. Raises TrainError."""
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise TrainError("precision=fp16 needs an NVIDIA GPU, and torch sees none here: use precision=bf16 or fp32")
    if recipe.batch % (mine.processes * recipe.accumulate):
        raise TrainError(
            f"batch={recipe.batch} is the batch of all processes together: it cannot be shared out equally over "
            f"{mine.processes} processes and accumulate={recipe.accumulate} pieces"
        )


class _SkipDone(lightning.Callback):
    """A run that is resumed within an epoch goes on behind the batches that it has learned from."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        done = trainer.global_step * trainer.accumulate_grad_batches % trainer.num_training_batches
        trainer.train_dataloader.batch_sampler.skip(done)


def train(
    trainer: lightning.Trainer, module: lightning.LightningModule, loader: DataLoader, saved: Path | None = None
) -> None:
    """Fit `module`; Ctrl-C and SIGTERM raise KeyboardInterrupt."""
    try:
        trainer.fit(module, loader, ckpt_path=saved)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C and SIGTERM, without a word to the user
        raise KeyboardInterrupt from stop


class _Pixels(torch.utils.data.Dataset):
    """uint8 photos (H, W, 3) by index, without labels: distillation needs none."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = torch.from_numpy(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]
