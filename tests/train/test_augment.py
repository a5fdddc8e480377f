"""Augmentation: drawn per photo from seed and step alone, and each part against what it is by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage
from torchvision.transforms import functional

from train.data.augment import CROP_DRAWS, LUMA, RATIOS, Augmenter, blend_with_grey, crops, hue_rotation
from train.data.store import Whole
from train.recipe import Augment

NOTHING = {"scale": (1, 1), "flip": 0, "jitter": 0, "grey": 0, "mix": False}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def augmented(pixels: torch.Tensor, first: int = 0, *, size: int | None = None, aspect: float = 1, **spec: object):
    """Images (B, 3, size, size) in 0..1: augmented, then un-normalised."""
    augment = Augmenter(Augment(**{**NOTHING, **spec}), size or pixels.shape[1], 0, MEAN, STD)
    images = augment(pixels, torch.full((len(pixels),), float(aspect)), first + np.arange(len(pixels)))
    return images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def plain(pixels: torch.Tensor) -> torch.Tensor:
    """The photos as they are, (B, 3, side, side) in 0..1."""
    return pixels.permute(0, 3, 1, 2) / 255


def equal_photos(count: int, side: int = 8) -> torch.Tensor:
    """One photo, `count` times, of colours from .4 to .6."""
    one = torch.randint(102, 154, (1, side, side, 3), generator=torch.Generator().manual_seed(4)).byte()
    return one.repeat(count, 1, 1, 1)


def test_draws__depend_on_seed_and_view_only(pixels: torch.Tensor) -> None:
    aspect, views = torch.ones(len(pixels)), 10 + np.arange(len(pixels))
    one, two, other = (Augmenter(Augment(), 32, seed, MEAN, STD) for seed in (1, 1, 2))
    one(pixels, aspect, views + 4)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = one(pixels, aspect, views)
    assert torch.equal(torch.rand(2), expected)  # the global state is left alone
    assert torch.equal(first, two(pixels, aspect, views))
    for different in (one(pixels, aspect, views + 1), other(pixels, aspect, views)):
        assert not torch.equal(first, different)


def test_view__is_the_same_in_any_batch(pixels: torch.Tensor) -> None:
    augment, aspect = Augmenter(Augment(mix=False), 32, 3, MEAN, STD), torch.ones(len(pixels))
    views = np.array([7, 300, 5])[: len(pixels)]
    together = augment(pixels[: len(views)], aspect[: len(views)], views)
    for number in range(len(views)):
        alone = augment(pixels[number : number + 1], aspect[:1], views[number : number + 1])
        torch.testing.assert_close(alone[0], together[number])


def test_nothing__gives_the_photo_back(pixels: torch.Tensor) -> None:
    torch.testing.assert_close(augmented(pixels), plain(pixels), atol=1e-5, rtol=0)


def test_smaller_image__is_the_mean_over_the_area(pixels: torch.Tensor) -> None:
    half = torch.nn.functional.avg_pool2d(plain(pixels), 2)
    torch.testing.assert_close(augmented(pixels, size=20), half, atol=1e-5, rtol=0)


def test_flip__is_drawn_per_photo() -> None:
    photos = equal_photos(64)
    found, as_is = augmented(photos, flip=0.5), plain(photos[:1])[0]
    same = [torch.allclose(image, as_is, atol=1e-5) for image in found]
    turned = [torch.allclose(image, as_is.flip(2), atol=1e-5) for image in found]
    assert all(one != other for one, other in zip(same, turned, strict=True))
    assert 16 < sum(turned) < 48
    assert torch.allclose(augmented(photos, flip=1.0), plain(photos).flip(3), atol=1e-5)


def test_grey__is_drawn_per_photo() -> None:
    photos = equal_photos(64)
    found, as_is = augmented(photos, grey=0.5), plain(photos[:1])[0]
    grey = functional.rgb_to_grayscale(as_is, 3)
    kinds = [(torch.allclose(image, as_is, atol=1e-3), torch.allclose(image, grey, atol=1e-3)) for image in found]
    assert set(kinds) == {(True, False), (False, True)}
    assert 16 < sum(is_grey for _, is_grey in kinds) < 48


def test_colour__is_drawn_per_photo_and_leaves_a_share_alone() -> None:
    photos = equal_photos(64)
    found, as_is = augmented(photos, jitter=0.8, colour=(0.4, 0.4, 0.2, 0.1)), plain(photos[:1])[0]
    left = [torch.allclose(image, as_is, atol=1e-5) for image in found]
    assert 4 < sum(left) < 28  # of 64, a fifth
    different = {tuple(image.flatten()[:5].tolist()) for image in found}
    assert len(different) == 64 - sum(left) + 1


def test_colour__is_torchvisions_brightness_contrast_and_saturation_in_turn() -> None:
    """The three factors are read off each result: contrast and brightness from its luma, saturation from the rest."""
    photos = equal_photos(16)
    before, after = plain(photos), augmented(photos, jitter=1.0, colour=(0.2, 0.3, 0.4, 0))
    weights = torch.tensor(LUMA)[:, None, None]
    factors = []
    for x, y in zip(before, after, strict=True):
        luma, result = (x * weights).sum(0), (y * weights).sum(0)
        slope = ((luma - luma.mean()) * (result - result.mean())).sum() / (luma - luma.mean()).square().sum()
        brightness = slope + (result.mean() - slope * luma.mean()) / luma.mean()
        saturation = ((x - luma) * (y - result)).sum() / (x - luma).square().sum() / slope
        factors.append(torch.stack([brightness, slope / brightness, saturation]))
        expected = functional.adjust_brightness(x, float(factors[-1][0]))
        expected = functional.adjust_contrast(expected, float(factors[-1][1]))
        expected = functional.adjust_saturation(expected, float(factors[-1][2]))
        torch.testing.assert_close(y, expected, atol=1e-3, rtol=0)  # torchvision rounds its weights of grey
    low, high = torch.stack(factors).min(0).values, torch.stack(factors).max(0).values
    for at, strength in enumerate((0.2, 0.3, 0.4)):
        assert 1 - strength - 1e-3 < low[at] < 1 < high[at] < 1 + strength + 1e-3


@given(st.floats(-0.5, 0.5), st.tuples(*[st.floats(0, 1)] * 3))
def test_hue__turns_at_the_same_luma(turn: float, colour: tuple[float, ...]) -> None:
    rgb, weights = torch.tensor(colour), torch.tensor(LUMA)
    (matrix,) = hue_rotation(torch.tensor([turn]))
    torch.testing.assert_close((matrix @ rgb) @ weights, rgb @ weights, atol=1e-4, rtol=0)
    (back,) = hue_rotation(torch.tensor([-turn]))
    torch.testing.assert_close(back @ matrix, torch.eye(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(matrix @ torch.full((3,), 0.7), torch.full((3,), 0.7), atol=1e-3, rtol=0)


def test_hue__of_a_third_of_the_circle_makes_red_green_or_blue_and_none_is_nothing() -> None:
    none, third = hue_rotation(torch.tensor([0.0, 1 / 3]))
    torch.testing.assert_close(none, torch.eye(3), atol=1e-5, rtol=0)
    red = torch.tensor([1.0, 0.0, 0.0])
    assert {int((third @ red).argmax()), int((torch.linalg.inv(third) @ red).argmax())} == {1, 2}


def test_blend_with_grey__keeps_luma_and_the_share() -> None:
    colour, weights = torch.tensor([0.2, 0.9, 0.5]), torch.tensor(LUMA)
    grey, half, whole = blend_with_grey(torch.tensor([0.0, 0.5, 1.0])) @ colour
    torch.testing.assert_close(grey, (colour @ weights).expand(3))
    torch.testing.assert_close(half, (grey + colour) / 2)
    torch.testing.assert_close(whole, colour)


@settings(deadline=None)
@given(
    aspect=st.lists(st.floats(0.15, 7), min_size=1, max_size=8),
    scale=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_crops__have_the_area_and_ratio_asked_for_or_are_the_largest_in_the_middle(
    aspect: list[float], scale: list[float], seed: int
) -> None:
    boxes = crops(
        torch.tensor(aspect),
        tuple(scale),
        torch.rand(len(aspect), CROP_DRAWS, generator=torch.Generator().manual_seed(seed)),
    )
    assert boxes.min() > -1e-5
    assert boxes.max() < 1 + 1e-5
    for (left, top, right, bottom), wide in zip(boxes.tolist(), aspect, strict=True):
        width, height = right - left, bottom - top
        assert RATIOS[0] - 1e-3 < width * wide / height < RATIOS[1] + 1e-3
        if not scale[0] - 1e-3 < width * height < scale[1] + 1e-3:
            assert max(width, height) == pytest.approx(1, abs=1e-4)
            assert (left + right, top + bottom) == pytest.approx((1, 1), abs=1e-4)


def test_crops__of_a_square_photo_are_drawn_over_all_of_the_range() -> None:
    draws = torch.rand(2000, CROP_DRAWS, generator=torch.Generator().manual_seed(0))
    boxes = crops(torch.ones(2000), (0.14, 1.0), draws)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert area.min() < 0.15
    assert area.max() > 0.95
    assert float(area.mean()) == pytest.approx(0.55, abs=0.05)  # large ones of odd ratios do not fit, and are redrawn
    assert boxes[:, 0].min() < 0.01
    assert boxes[:, 2].max() > 0.99


@pytest.mark.parametrize("turned", [False, True], ids=["3:1", "1:3"])
def test_crop__of_a_long_photo_leaves_circles_as_round_as_a_crops_ratio_allows(turned: bool) -> None:
    photo = Image.new("RGB", (720, 240))
    for at in range(60, 720, 120):
        ImageDraw.Draw(photo).ellipse((at - 40, 80, at + 40, 160), fill=(255, 255, 255))
    photo = photo.transpose(Image.Transpose.ROTATE_90) if turned else photo
    stored = torch.from_numpy(Whole(160).of(photo))[None].repeat(16, 1, 1, 1)
    images = augmented(stored, size=96, aspect=photo.width / photo.height, scale=(0.2, 0.33))
    shapes = []
    for image in images:
        circles, _ = ndimage.label(image[0].numpy() > 0.5)
        for rows, columns in ndimage.find_objects(circles):
            if rows.start > 0 and columns.start > 0 and rows.stop < 96 and columns.stop < 96:  # not cut off
                shapes.append((columns.stop - columns.start) / (rows.stop - rows.start))
    assert len(shapes) > 8
    # The crop is made square, so a circle's width / height is one over the crop's ratio; a pixel is 3 % of it.
    assert min(shapes) > RATIOS[0] * 0.94
    assert max(shapes) < RATIOS[1] * 1.06
    assert math.exp(sum(map(math.log, shapes)) / len(shapes)) == pytest.approx(1, abs=0.15)


@settings(deadline=None, max_examples=25)
@given(size=st.sampled_from([16, 32, 48]), step=st.integers(0, 10**6), count=st.integers(1, 19), mix=st.booleans())
def test_augmenter__gives_images_whose_colours_are_in_0_to_1(size: int, step: int, count: int, mix: bool) -> None:
    pixels = torch.randint(0, 256, (count, 40, 40, 3), generator=torch.Generator().manual_seed(step)).byte()
    images = augmented(
        pixels, step, size=size, scale=(0.14, 1), flip=0.5, jitter=0.8, grey=0.2, mix=mix, colour=(0.8, 0.8, 0.8, 0.5)
    )
    assert images.shape == (count, 3, size, size)
    assert images.dtype == torch.float32
    assert images.min() > -1e-5
    assert images.max() < 1 + 1e-5


def test_mix__is_of_the_batch_with_itself_by_one_factor(pixels: torch.Tensor) -> None:
    factors = set()
    for step in range(4):
        apart, mixed = augmented(pixels, step, flip=0.5), augmented(pixels, step, flip=0.5, mix=True)
        found = []
        for row, own in zip(mixed, apart, strict=True):
            if torch.allclose(row, own, atol=1e-4):  # its partner is itself: any factor explains it
                continue
            for other in apart:  # row = other + factor * (own - other)
                factor = float(((row - other) * (own - other)).sum() / (own - other).square().sum().clamp(min=1e-9))
                if torch.allclose(row, other + factor * (own - other), atol=1e-4):
                    found.append(round(factor, 3))
        assert len(found) > 1
        assert len(set(found)) == 1
        assert 0 <= found[0] <= 1
        factors.add(found[0])
    assert len(factors) == 4
