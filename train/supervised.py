"""A small teacher trained on labels, for recipes that have none to load (the embedded digits)."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional

from train.data import Augmenter


class SupervisedTeacher(lightning.LightningModule):
    """Cross-entropy on the recipe's labels, AdamW with a one-cycle schedule."""

    def __init__(self, vit: nn.Module, mean: tuple, std: tuple, augment: Augmenter, lr: float, steps: int) -> None:
        super().__init__()
        self.vit, self.augment, self.lr, self.steps = vit, augment, lr, steps
        self.register_buffer("pixel_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """batch: pixels uint8 (B, H, W, 3) and labels (B,)."""
        pixels, labels = batch
        images = (self.augment(pixels, self.global_step) - self.pixel_mean) / self.pixel_std
        loss = functional.cross_entropy(self.vit(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, warmed up over a tenth of the steps."""
        optimizer = torch.optim.AdamW(self.vit.parameters(), lr=self.lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
