"""The training loop around a distiller: batches in, checkpoints, logs and a progress bar out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from train import checkpoint
from train.data import EpochSampler, Photos
from train.distill import Distiller
from train.errors import TrainError


def distil(
    distiller: Distiller,
    photos: Photos,
    folder: Path,
    *,
    resume: bool,
    callbacks: Sequence[lightning.Callback] = (),
) -> None:
    """Train `distiller` on photos, with checkpoints and logs in `folder`. Raises TrainError when it was stopped."""
    recipe = distiller.spec
    loader = DataLoader(
        _Pixels(photos.pixels),
        batch_size=recipe.batch,
        sampler=EpochSampler(len(photos), recipe.seed),
        collate_fn=torch.stack,
    )
    saved = checkpoint.latest(folder / "checkpoints") if resume else None
    print(f"distilling by `{recipe.curriculum.strategy}`" + (f", resumed from {saved.name}" if saved else ""))
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        accelerator="auto",
        devices=1,
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[recipe.precision],
        logger=CSVLogger(folder, name="log"),  # a new version_N in it each time: resuming keeps the earlier ones
        log_every_n_steps=10,
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", filename="epoch-{epoch:03d}", auto_insert_metric_name=False),
            TQDMProgressBar(refresh_rate=5),
            *callbacks,
        ],
        plugins=[checkpoint.SafeCheckpointIO()],
        enable_model_summary=False,
    )
    train(trainer, distiller, loader, saved)
    distiller.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU, where the evaluation would crawl
    if sum(distiller.block_images) < len(photos) * recipe.epochs:
        raise TrainError(f"training was interrupted; continue it with --resume (checkpoints are in {folder})")


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
