"""Augmentation in batches, on the device that the student is on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import roi_align

from train import recipe

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: red, green and blue in gray
RATIOS = (3 / 4, 4 / 3)  # width / height of crops, as in torchvision's RandomResizedCrop
ATTEMPTS = 10  # draws of a crop before the largest that has an allowed ratio is taken, likewise
CROP_DRAWS = 2 * ATTEMPTS + 2
DRAWS = CROP_DRAWS + 7  # per photo: a crop, a flip, whether color and gray change, four color factors


class Augmenter:
    """uint8 photos (B, side, side, 3) -> normalized float32 images (B, 3, size, size).

    Random crop of the whole photo, flip, color and gray are drawn per photo, by the seed and the number of its view
    alone: a view is the same whenever and wherever it is made. The batch is then mixed with itself by one factor.

    A crop is resized by `roi_align`, which averages over the area when it shrinks and is bilinear when it enlarges.
    Brightness, contrast, saturation and hue are linear in a photo's RGB (hue as a rotation in YIQ), so all four are one
    matrix and one offset per photo.
    """

    def __init__(self, spec: recipe.Augment, size: int, seed: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.spec, self.size, self.seed = spec, size, seed
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, pixels: Tensor, aspect: Tensor, views: npt.NDArray[np.int64]) -> Tensor:
        """Make these views (B,) of photos; aspect (B,): width / height of the whole photos."""
        amount, device = len(pixels), pixels.device
        generators = [np.random.Generator(np.random.Philox(key=[self.seed, view])) for view in views]
        draws = torch.from_numpy(np.stack([generator.random(DRAWS, np.float32) for generator in generators]))
        crop, flip, colour = draws.split([CROP_DRAWS, 1, DRAWS - CROP_DRAWS - 1], dim=1)
        boxes = crops(aspect.cpu(), self.spec.scale, crop) * pixels.shape[1]
        images = pixels.permute(0, 3, 1, 2).float()  # (B, 3, side, side)
        rows = torch.cat([torch.arange(amount, dtype=torch.float32)[:, None], boxes], 1).to(device)
        images = roi_align(images.contiguous(), rows, self.size, sampling_ratio=-1, aligned=True) / 255
        flipped = (flip < self.spec.flip).to(device)
        images = torch.where(flipped[:, :, None, None], images.flip(3), images)
        images = self._colour(images, colour)
        images = (images - self.mean.to(device)[:, None, None]) / self.std.to(device)[:, None, None]
        if self.spec.mix:  # teacher and student see the same pixels
            generator = np.random.Generator(np.random.Philox(key=[self.seed, views[0]], counter=[0, 0, 0, 1]))
            share, partner = generator.random(), torch.from_numpy(generator.permutation(amount))
            images = share * images + (1 - share) * images[partner.to(device)]
        return images

    def _colour(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images (B, 3, H, W) in 0..1; draws (B, 6) of 0..1."""
        device = images.device
        jittered, grey = draws[:, 0] < self.spec.jitter, draws[:, 1] < self.spec.grey
        factors = draws[:, 2:].T * 2 - 1  # of -1..1
        if not (jittered.any() or grey.any()):
            return images
        strengths = torch.tensor(self.spec.colour)[:, None]
        brightness, contrast, saturation = (1 + strengths[:3] * factors[:3]).clamp(min=0)
        matrix = hue_rotation(strengths[3] * factors[3]) @ blend_with_grey(saturation)  # (B, 3, 3)
        matrix = matrix * (brightness * contrast)[:, None, None]
        matrix = torch.where(jittered[:, None, None], matrix, torch.eye(3))
        # Contrast blends with the mean gray of the brightened photo, which saturation leaves as it is.
        luma = torch.tensor(LUMA, device=device)
        offset = (images.mean((2, 3)) @ luma) * torch.where(jittered, brightness * (1 - contrast), 0.0).to(device)
        matrix = torch.where(grey[:, None, None], blend_with_grey(torch.zeros(len(grey))) @ matrix, matrix).to(device)
        return (torch.einsum("brc,bchw->brhw", matrix, images) + offset[:, None, None, None]).clamp_(0, 1)


def crops(aspect: Tensor, scale: tuple[float, float], draws: Tensor) -> Tensor:
    """Boxes (B, 4), x1 y1 x2 y2 as shares of width and height: RandomResizedCrop (Szegedy et al. 2015) per photo.

    aspect (B,): width / height. scale: share of the photo's area. draws (B, CROP_DRAWS) of 0..1. Of ATTEMPTS crops the
    first that fits is taken; where none does, the largest centered one of an allowed ratio.
    """
    sizes, ratios, place = draws.split([ATTEMPTS, ATTEMPTS, 2], dim=1)
    area = (scale[0] + (scale[1] - scale[0]) * sizes) * aspect[:, None]  # of aspect x 1
    low, high = map(math.log, RATIOS)
    ratio = (low + (high - low) * ratios).exp()
    width, height = (area * ratio).sqrt() / aspect[:, None], (area / ratio).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.float().argmax(1, keepdim=True)
    clipped = aspect.clamp(*RATIOS)
    width = torch.where(fits.any(1), width.gather(1, first)[:, 0], (clipped / aspect).clamp(max=1))
    height = torch.where(fits.any(1), height.gather(1, first)[:, 0], (aspect / clipped).clamp(max=1))
    left, top = torch.where(fits.any(1), place.T, 0.5) * (1 - torch.stack([width, height]))
    return torch.stack([left, top, left + width, top + height], 1)


def blend_with_grey(share: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that keep `share` (B,) of a photo's color, and make the rest its gray."""
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
