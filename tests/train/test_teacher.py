"""The early exit: the same tokens as the whole teacher, and the blocks behind it really rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import timm
import torch
from torch import nn

from train.errors import TrainError
from train.method.teacher import Teacher

# Every family that recipes may name, small: options replace those of `make_teacher`; registers and CLS by `prefix`.
KINDS = {
    "plain": {},
    "dinov2": {"model": "vit_small_patch14_dinov2", "num_classes": 0, "patch_size": 14, "img_size": 42},
    "dinov2 giant": {"model": "vit_giant_patch14_dinov2", "num_classes": 0, "patch_size": 14, "img_size": 42},
    "dinov2 registers": {"model": "vit_small_patch14_reg4_dinov2", "num_classes": 0},
    "dinov3": {"model": "vit_small_patch16_dinov3", "num_classes": 0},
    "dinov3 qkv bias": {"model": "vit_small_patch16_dinov3_qkvb", "num_classes": 0},
    "dinov3 7b": {"model": "vit_7b_patch16_dinov3", "num_classes": 0},
    "eva02": {"model": "eva02_tiny_patch14_224"},
    "eva, mean pooled": {"model": "eva_giant_patch14_224"},
    "rope, mixed": {"model": "vit_base_patch16_rope_mixed_224"},
    "perception encoder": {"model": "vit_pe_core_tiny_patch16_384"},
    "without a final norm": {"model": "vit_pe_spatial_tiny_patch16_512"},
    "mean pooled": {"model": "vit_tiny_patch16_224", "global_pool": "avg"},
    "deit distilled": {"model": "deit_tiny_distilled_patch16_224"},
    "deit3": {"model": "deit3_small_patch16_224"},
    "clip": {"model": "vit_base_patch32_clip_224"},
    "flexivit": {"model": "flexivit_small"},
    "parallel": {"model": "vit_small_patch16_18x2_224"},
    "beit": {"model": "beit_base_patch16_224"},
    "beitv2": {"model": "beitv2_base_patch16_224"},
    "relative positions": {"model": "vit_relpos_base_patch16_cls_224"},
    "hybrid": {"model": "vit_tiny_r_s16_p8_224", "patch_size": 1, "img_size": 64},
}
PREFIX = {"dinov2 registers": 5, "dinov3": 5, "dinov3 qkv bias": 5, "dinov3 7b": 5, "deit distilled": 2}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def some_teacher(kind: str, make_teacher: Callable[..., Teacher]) -> Teacher:
    return make_teacher(**{"depth": 4, **KINDS[kind]})


@pytest.fixture
def some_images(kind: str) -> torch.Tensor:
    side = KINDS[kind].get("img_size", 32)
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@contextmanager
def watched(teacher: Teacher) -> Iterator[dict[int, torch.Tensor]]:
    """What each block gave, by its number from 1; blocks that did not run are missing."""
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, number=number: seen.__setitem__(number, out))
        for number, block in enumerate(teacher.vit.blocks, 1)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def test_early_exit__equals_the_whole_teacher_at_every_block(some_teacher: Teacher, some_images: torch.Tensor) -> None:
    every = some_teacher.at(some_images, range(1, some_teacher.blocks + 1))
    assert len(every) == some_teacher.blocks
    for block in range(1, some_teacher.blocks + 1):
        early = some_teacher(some_images, block)
        torch.testing.assert_close(early.patches, every[block - 1].patches)
        torch.testing.assert_close(early.cls, every[block - 1].cls)
    assert not torch.allclose(every[0].cls, every[1].cls, atol=1e-2)


def test_early_exit__runs_no_block_behind_it(some_teacher: Teacher, some_images: torch.Tensor) -> None:
    for block in range(1, some_teacher.blocks + 1):
        with watched(some_teacher) as seen:
            some_teacher(some_images, block)
        assert sorted(seen) == list(range(1, block + 1))
    with watched(some_teacher) as seen:
        some_teacher.at(some_images, [1, 3])
    assert sorted(seen) == [1, 2, 3]


def test_early_exit__gives_the_normed_tokens_of_that_block(
    kind: str, some_teacher: Teacher, some_images: torch.Tensor
) -> None:
    """Against hooks on the whole model; the last block also against timm's own features."""
    vit = some_teacher.vit
    with watched(some_teacher) as seen:
        features = vit.forward_features(some_images)
    prefix = PREFIX.get(kind, 1)
    assert vit.num_prefix_tokens == prefix
    norm = vit.norm
    if isinstance(norm, nn.Identity):
        norm = vit.fc_norm
        features = norm(features)
    assert isinstance(norm, nn.LayerNorm) == (kind != "without a final norm")
    assert len(seen) == some_teacher.blocks == 4
    several = some_teacher.at(some_images, [2, 4])
    for block, raw in seen.items():
        expected = norm(raw)
        for tokens in [some_teacher(some_images, block), *([several[block // 2 - 1]] if block % 2 == 0 else [])]:
            torch.testing.assert_close(tokens.cls, expected[:, 0])
            torch.testing.assert_close(tokens.patches, expected[:, prefix:])
            assert tokens.patches.shape == (
                len(some_images),
                some_teacher.vit.patch_embed.num_patches,
                some_teacher.width,
            )
    torch.testing.assert_close(some_teacher(some_images, 4).patches, features[:, prefix:])


@pytest.mark.parametrize(
    "model", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_base_patch16_rope_mixed_224"]
)
def test_head__classifies_the_last_blocks_cls_as_the_model_does(
    model: str, make_teacher: Callable[..., Teacher], images: torch.Tensor
) -> None:
    teacher = make_teacher(model, depth=3, num_classes=3)
    torch.testing.assert_close(teacher.head(teacher(images, teacher.blocks).cls), teacher.vit(images))


def test_head__behind_a_late_norm_classifies_as_the_model_does(
    make_teacher: Callable[..., Teacher], images: torch.Tensor
) -> None:
    teacher = make_teacher(depth=3, num_classes=3, fc_norm=True)
    assert isinstance(teacher.vit.norm, nn.Identity)
    torch.testing.assert_close(teacher.head(teacher(images, teacher.blocks).cls), teacher.vit(images))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dinov2", "no classifier"),
        ("dinov3", "no classifier"),
        ("eva02", "no classifier"),
        ("mean pooled", "reads pooled patches (`avg`)"),
        ("eva, mean pooled", "reads pooled patches (`avg`)"),
        ("beit", "reads pooled patches (`avg`)"),
        ("perception encoder", "reads pooled patches (`map`)"),
        ("deit distilled", "distillation token"),
    ],
)
def test_head__that_does_not_read_cls_alone_is_refused(
    kind: str, reason: str, make_teacher: Callable[..., Teacher]
) -> None:
    teacher = make_teacher(**{"depth": 1, **KINDS[kind]})
    with pytest.raises(TrainError, match=re.escape(reason) + ".*teacher.head=null"):
        teacher.head(torch.zeros(2, teacher.width))


def test_teacher__is_frozen_and_stays_in_evaluation_mode(make_teacher: Callable[..., Teacher]) -> None:
    teacher = make_teacher(depth=2, proj_drop_rate=0.5)
    module = nn.ModuleDict({"teacher": teacher})
    module.train()
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_teacher__of_modules_that_are_pairs_of_blocks_has_them_all() -> None:
    vit = timm.create_model("vit_small_patch16_36x1_224", depth=1, embed_dim=48, num_heads=3)
    assert Teacher(vit).blocks == 1
