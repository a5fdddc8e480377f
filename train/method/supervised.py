"""A small teacher trained on labels, for recipes that have none to load (the embedded digits)."""

from __future__ import annotations

import torch
from torch.nn import functional
from tqdm import tqdm

from train.data.augment import Augmenter
from train.data.sampling import Epochs, Mixture
from train.method.teacher import ViT
from train.recipe import Supervised


def train_teacher(vit: ViT, spec: Supervised, photos: Mixture, augment: Augmenter, seed: int) -> None:
    """Cross-entropy on the labels of the mixture's first set: AdamW, one-cycle schedule warmed up over a tenth."""
    epochs = Epochs.of([len(photos)], [1.0], batch=min(spec.batch, len(photos)), seed=seed)
    labels = torch.from_numpy(photos.sets[0].labels)
    device = next(vit.parameters()).device
    optimizer = torch.optim.AdamW(vit.parameters(), lr=spec.lr, weight_decay=0.05)
    steps = spec.epochs * epochs.steps
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.lr, total_steps=steps, pct_start=0.1)
    vit.train()
    for epoch in tqdm(range(spec.epochs), "teacher"):
        for views in epochs.order(epoch).reshape(epochs.steps, -1):
            pixels, aspect = photos.read(views)
            images = augment(pixels.to(device), aspect, views)
            loss = functional.cross_entropy(vit(images), labels[views % len(photos)].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    vit.eval()
