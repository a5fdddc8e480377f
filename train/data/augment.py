"""Augmentation in batches, on the device that the student is on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from train import recipe

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: red, green and blue in grey
RATIOS = (3 / 4, 4 / 3)  # width / height of crops, as in torchvision's RandomResizedCrop
ATTEMPTS = 10  # draws of a crop before the largest that has an allowed ratio is taken, likewise


class Augmenter:
    """uint8 photos (B, side, side, 3) -> normalised float32 images (B, 3, size, size).

    Random crop of the whole photo, flip, colour and grey are drawn per photo; the batch is then mixed with itself by
    one factor. Draws depend on (seed, step, piece) only, and are the same on every device.

    A crop is resized by `roi_align`, which averages over the area when it shrinks and is bilinear when it enlarges.
    Brightness, contrast, saturation and hue are linear in a photo's RGB (hue as a rotation in YIQ), so all four are one
    matrix and one offset per photo.
    """

    def __init__(self, spec: recipe.Augment, size: int, seed: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.spec, self.size, self.seed = spec, size, seed
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, pixels: Tensor, aspect: Tensor, step: int, piece: int = 0) -> Tensor:
        """Augment the batch of optimiser step `step`, or one piece of it; aspect (B,): width / height of the photos."""
        # Torch's generator takes 32 bits of a seed: three numbers are hashed into them.
        mixed = np.random.SeedSequence((self.seed, step, piece)).generate_state(1)
        draw = torch.Generator().manual_seed(int(mixed[0]))
        amount, device = len(pixels), pixels.device
        boxes = crops(aspect.cpu(), self.spec.scale, draw) * pixels.shape[1]
        images = pixels.permute(0, 3, 1, 2).float()  # (B, 3, side, side)
        rows = torch.cat([torch.arange(amount, dtype=torch.float32)[:, None], boxes], 1).to(device)
        images = roi_align(images.contiguous(), rows, self.size, sampling_ratio=-1, aligned=True) / 255
        flipped = (torch.rand(amount, generator=draw) < self.spec.flip).to(device)
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        images = self._colour(images, draw)
        images = (images - self.mean.to(device)[:, None, None]) / self.std.to(device)[:, None, None]
        if self.spec.mix:  # teacher and student see the same pixels
            share = torch.rand((), generator=draw).item()
            images = share * images + (1 - share) * images[torch.randperm(amount, generator=draw).to(device)]
        return images

    def _colour(self, images: Tensor, draw: torch.Generator) -> Tensor:
        amount, device = len(images), images.device
        jittered = torch.rand(amount, generator=draw) < self.spec.jitter
        factors = torch.rand(4, amount, generator=draw) * 2 - 1  # of -1..1
        grey = torch.rand(amount, generator=draw) < self.spec.grey
        if not (jittered.any() or grey.any()):
            return images
        strengths = torch.tensor(self.spec.colour)[:, None]
        brightness, contrast, saturation = (1 + strengths[:3] * factors[:3]).clamp(min=0)
        matrix = hue_rotation(strengths[3] * factors[3]) @ blend_with_grey(saturation)  # (B, 3, 3)
        matrix = matrix * (brightness * contrast)[:, None, None]
        matrix = torch.where(jittered[:, None, None], matrix, torch.eye(3))
        # Contrast blends with the mean grey of the brightened photo, which saturation leaves as it is.
        luma = torch.tensor(LUMA, device=device)
        offset = (images.mean((2, 3)) @ luma) * torch.where(jittered, brightness * (1 - contrast), 0.0).to(device)
        matrix = torch.where(grey[:, None, None], blend_with_grey(torch.zeros(amount)) @ matrix, matrix).to(device)
        return (torch.einsum("brc,bchw->brhw", matrix, images) + offset[:, None, None, None]).clamp_(0, 1)


def crops(aspect: Tensor, scale: tuple[float, float], draw: torch.Generator) -> Tensor:
    """Boxes (B, 4), x1 y1 x2 y2 as shares of width and height: RandomResizedCrop (Szegedy et al. 2015) per photo.

    aspect (B,): width / height. scale: share of the photo's area. Of ATTEMPTS draws the first that fits is taken; where
    none does, the largest centred crop of an allowed ratio.
    """
    shape = (len(aspect), ATTEMPTS)
    area = torch.empty(shape).uniform_(*scale, generator=draw) * aspect[:, None]  # the photo is `aspect` wide, 1 high
    ratio = torch.empty(shape).uniform_(*map(math.log, RATIOS), generator=draw).exp()
    width, height = (area * ratio).sqrt() / aspect[:, None], (area / ratio).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.float().argmax(1, keepdim=True)
    clipped = aspect.clamp(*RATIOS)
    width = torch.where(fits.any(1), width.gather(1, first)[:, 0], (clipped / aspect).clamp(max=1))
    height = torch.where(fits.any(1), height.gather(1, first)[:, 0], (aspect / clipped).clamp(max=1))
    place = torch.rand(2, len(aspect), generator=draw)
    place = torch.where(fits.any(1), place, 0.5)
    left, top = place[0] * (1 - width), place[1] * (1 - height)
    return torch.stack([left, top, left + width, top + height], 1)


def blend_with_grey(share: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that keep `share` (B,) of a photo's colour, and make the rest its grey."""
    grey = torch.tensor(LUMA).expand(3, 3)
    return share[:, None, None] * torch.eye(3) + (1 - share)[:, None, None] * grey


def hue_rotation(turn: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn the hue by `turn` (B,) of the circle, at the same luma: a rotation in YIQ."""
    to_yiq = torch.tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    angle = 2 * math.pi * turn
    rotation = torch.eye(3).repeat(len(turn), 1, 1)
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 2, 1] = angle.sin()
    rotation[:, 1, 2] = -angle.sin()
    return torch.linalg.inv(to_yiq) @ rotation @ to_yiq
