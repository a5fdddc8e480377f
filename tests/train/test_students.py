"""The sizes that we publish: their tokens, their growth, and the table of what they cost."""

from __future__ import annotations

import pytest
import torch

from tools.student_sizes import DOCUMENT, cost, document
from train.errors import TrainError
from train.method.student import SIZES, grow_from_identity, make_student, plain_attention, tokens_at
from train.recipe import Student


@pytest.mark.parametrize(
    ("size", "millions", "pixels", "patch"),
    [
        ("base", 86, 224, 16),
        ("small", 22, 224, 16),
        ("tiny", 5.6, 224, 16),
        ("nano", 3.4, 160, 16),
        ("micro", 1.6, 160, 16),
        ("digits", 0.35, 32, 8),
    ],
)
def test_student__has_the_parameters_that_it_says(size: str, millions: float, pixels: int, patch: int) -> None:
    _, parameters, _ = cost(Student(size=size, patch=patch), pixels=pixels)
    assert parameters / 1e6 == pytest.approx(millions, rel=0.06)


@pytest.mark.parametrize("size", [size for size in SIZES if size != "base"])
@pytest.mark.parametrize(("pixels", "patch"), [(48, 16), (42, 14)])
def test_student__gives_cls_first_then_a_token_per_patch(size: str, pixels: int, patch: int) -> None:
    student = make_student(Student(size=size, patch=patch), pixels=pixels)
    assert student.num_prefix_tokens == 1
    assert student.forward_features(torch.zeros(2, 3, pixels, pixels)).shape == (2, 1 + 9, SIZES[size][0])


def test_student__puts_registers_between_cls_and_patches() -> None:
    student = make_student(Student(size="digits", patch=8, registers=4), pixels=24)
    assert student.num_prefix_tokens == 5
    with torch.no_grad():
        student.pos_embed.zero_()
        student.cls_token.fill_(1)
        student.reg_token.copy_(torch.arange(2, 6)[:, None].expand(4, 48))
        tokens = student._pos_embed(torch.full((1, 9, 48), 7.0))
    assert tokens[0, :, 0].tolist() == [1, 2, 3, 4, 5] + [7] * 9


def test_student__scales_its_branches_with_layerscale() -> None:
    plain = make_student(Student(size="digits", patch=8), pixels=24)
    scaled = make_student(Student(size="digits", patch=8, layerscale=1e-4), pixels=24)
    assert not any("gamma" in name for name, _ in plain.named_parameters())
    gammas = [value for name, value in scaled.named_parameters() if "gamma" in name]
    assert len(gammas) == 24
    assert all(torch.all(gamma == 1e-4) for gamma in gammas)


def test_student__of_unknown_size_or_patch_is_refused() -> None:
    with pytest.raises(TrainError, match="sizes are digits, micro, study, nano, tiny, small, base"):
        make_student(Student(size="mega", patch=8), pixels=32)
    with pytest.raises(TrainError, match="do not tile"):
        make_student(Student(size="nano"), pixels=40)


def test_tokens_at__are_those_of_a_student_cut_to_that_depth() -> None:
    student = make_student(Student(size="digits", patch=8, registers=2), pixels=24).eval()
    images = torch.randn(2, 3, 24, 24)
    deep, shallow = tokens_at(student, images, [12, 5])
    assert torch.allclose(deep, student.forward_features(images), atol=1e-5)
    del student.blocks[5:]
    assert torch.allclose(shallow, student.forward_features(images), atol=1e-5)


def test_grow_from_identity__deeper_blocks_change_nothing_and_learn() -> None:
    student = make_student(Student(size="digits", patch=8), pixels=24)
    grow_from_identity(student, 5)
    shallow, deep = tokens_at(student, torch.randn(2, 3, 24, 24), [5, 12])
    assert torch.allclose(shallow, deep, atol=1e-5)
    (deep * torch.randn_like(deep)).sum().backward()
    assert all(block.mlp.fc2.weight.grad.abs().max() > 0 for block in student.blocks[5:])


def test_plain_attention__gives_the_same_tokens() -> None:
    student = make_student(Student(size="digits", patch=8), pixels=24).eval()
    images = torch.randn(2, 3, 24, 24)
    plain_attention(student, True)
    assert not any(block.attn.fused_attn for block in student.blocks)
    found = student.forward_features(images)
    plain_attention(student, False)
    assert all(block.attn.fused_attn for block in student.blocks)
    assert torch.allclose(found, student.forward_features(images), atol=1e-5)


def test_cost__is_the_calculation_by_hand() -> None:
    tokens, _, flops = cost(Student(size="tiny", patch=16, registers=4), pixels=224)
    width = 192
    block = 2 * tokens * width * width * 12 + 2 * 2 * tokens * tokens * width
    assert tokens == 1 + 4 + 14 * 14
    assert flops == 2 * 14 * 14 * width * 3 * 16 * 16 + 12 * block


def test_document__is_what_the_command_writes() -> None:
    assert DOCUMENT.read_text() == document(), "run `python -m tools.student_sizes`"
