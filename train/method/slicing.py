"""A student that starts as a smaller copy of its teacher: the weights of a frozen ViT, cut to the student's width.

The residual stream is cut to its principal directions, as in SliceGPT (arXiv 2401.15024); each attention head's
query-key and value-output products are cut to the student's head width by a singular value decomposition; of the MLP's
hidden units the strongest stay, and its output layer is fitted to them. What is strong is measured on training photos.
A student of the teacher's own width starts as the teacher itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.layers import Attention, Mlp, resample_abs_pos_embed, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from train.errors import TrainError
from train.method.stream import Moments, Reading, Stream, root, solve, solve_right
from train.method.teacher import ViT

PHOTOS = 512  # of the training photos: some 50,000 tokens, for products of at most a few thousand channels
CLS_SHARE = 0.25  # of the weight of all tokens: a photo's one CLS counts as much as a third of its patches
LEAVE = "leave out student.init, or set student.init=random"


def check_sliceable(vit: ViT, student: VisionTransformer) -> None:
    """Refuse a teacher that `student` cannot start from. Raises TrainError."""
    plain = (
        isinstance(vit, VisionTransformer)
        and isinstance(vit.norm, nn.LayerNorm)
        and isinstance(vit.norm_pre, nn.Identity)
        and all(
            type(block.attn) is Attention
            and type(block.mlp) is Mlp
            and isinstance(block.attn.q_norm, nn.Identity)
            and isinstance(block.attn.norm, nn.Identity)
            and isinstance(block.mlp.norm, nn.Identity)
            and isinstance(block.norm1, nn.LayerNorm)
            for block in vit.blocks
        )
    )
    if not plain or not plain_positions(vit):
        raise TrainError(
            f"a student cannot start from the weights of this {type(vit).__name__}, which is not a plain ViT: {LEAVE}"
        )
    if student.embed_dim > vit.embed_dim or len(student.blocks) > len(vit.blocks):
        raise TrainError(
            f"a student of width {student.embed_dim} and {len(student.blocks)} blocks cannot start from a teacher of "
            f"width {vit.embed_dim} and {len(vit.blocks)} blocks, which is smaller: {LEAVE}"
        )
    if student.num_prefix_tokens != vit.num_prefix_tokens:
        raise TrainError(
            f"the teacher has {vit.num_prefix_tokens - 1} registers: a student that starts from it needs as many "
            f"(student.registers={vit.num_prefix_tokens - 1}), or {LEAVE}"
        )
    if not isinstance(student.blocks[0].ls1, nn.Identity):
        raise TrainError(f"student.layerscale and student.init=teacher exclude each other: {LEAVE}")


def plain_positions(vit: VisionTransformer) -> bool:
    """Whether there is a learned position for each token, CLS and registers included."""
    embedding = vit.pos_embed
    return embedding is not None and embedding.shape[1] == vit.num_prefix_tokens + vit.patch_embed.num_patches


@torch.no_grad()
def start_from_teacher(
    student: VisionTransformer, projection: nn.Linear, vit: VisionTransformer, images: Tensor
) -> None:
    """Overwrite a student's weights, and the projection g into the teacher's space, by the teacher's, cut to size.

    images (B, 3, H, W): normalised training photos at the teacher's size. Raises TrainError as `check_sliceable` does.
    """
    check_sliceable(vit, student)
    norms, hidden = _measure(vit, images)
    every = Moments(
        sum(moments.weight for moments in norms),
        torch.stack([moments.first for moments in norms]).sum(0),
        torch.stack([moments.second for moments in norms]).sum(0),
    )
    stream = Stream(every.second / every.weight, student.embed_dim)
    _embeddings(student, vit, stream)
    ours, theirs = len(student.blocks), len(vit.blocks)
    for number, block in enumerate(student.blocks):
        at = round((number + 1) * theirs / ours) - 1
        teacher = vit.blocks[at]
        _attention(block.attn, teacher, Reading(stream, teacher.norm1, norms[2 * at]), stream)
        _mlp(block.mlp, teacher, Reading(stream, teacher.norm2, norms[2 * at + 1]), hidden[at], stream)
    last = Reading(stream, vit.norm, norms[-1])
    projection.weight.copy_(last.student(last.back))
    projection.bias.copy_(last.offset)


def _measure(vit: VisionTransformer, images: Tensor) -> tuple[list[Moments], list[Moments]]:
    """Moments of the normalised tokens before each LayerNorm (two a block, then the last), and of the hidden units."""
    places = [norm for block in vit.blocks for norm in (block.norm1, block.norm2)] + [vit.norm]
    norms, hidden = [Moments() for _ in places], [Moments() for _ in vit.blocks]
    tokens = vit.num_prefix_tokens + vit.patch_embed.num_patches
    weights = torch.full((tokens,), (1 - CLS_SHARE) / (tokens - 1))
    weights[0] = CLS_SHARE

    def watch(moments: Moments, normalised: bool) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: ViT, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].float()
            if normalised:
                rows = nn.functional.layer_norm(rows, rows.shape[-1:], eps=module.eps)
            moments.add(rows.flatten(0, 1).cpu(), weights.repeat(len(rows)))

        return hook

    hooks = [place.register_forward_pre_hook(watch(at, True)) for place, at in zip(places, norms, strict=True)]
    hooks += [b.mlp.fc2.register_forward_pre_hook(watch(at, False)) for b, at in zip(vit.blocks, hidden, strict=True)]
    try:
        for part in images.split(64):
            vit.forward_features(part)
    finally:
        for hook in hooks:
            hook.remove()
    return norms, hidden


def _embeddings(student: VisionTransformer, vit: VisionTransformer, stream: Stream) -> None:
    patches = resample_patch_embed(vit.patch_embed.proj.weight.detach().float(), list(student.patch_embed.patch_size))
    positions = resample_abs_pos_embed(
        vit.pos_embed.detach().float(), list(student.patch_embed.grid_size), num_prefix_tokens=vit.num_prefix_tokens
    )
    student.patch_embed.proj.weight.copy_(stream.write(patches))
    bias = vit.patch_embed.proj.bias
    student.patch_embed.proj.bias.copy_(stream.write(torch.zeros(vit.embed_dim) if bias is None else bias.detach()))
    for name, value in (("pos_embed", positions), ("cls_token", vit.cls_token), ("reg_token", vit.reg_token)):
        if value is not None:
            getattr(student, name).copy_(stream.write(value.detach()[0].T).T[None])


def _attention(attn: Attention, block: ViT, reading: Reading, stream: Stream) -> None:
    """Each head's products, cut to the student's head width; spare heads take what was cut from the values."""
    teacher, kept = block.attn, attn.head_dim
    shape = (teacher.num_heads, teacher.head_dim)
    weight, bias = reading.linear(teacher.qkv.weight, teacher.qkv.bias)  # (3 D, r)
    query, key, value = weight.unflatten(0, (3, *shape))  # (heads, width, r) each
    query_bias, _, value_bias = bias.unflatten(0, (3, *shape))  # that of keys adds the same to all logits: nothing
    gain = _gain(block.ls1)
    output = stream.down @ (gain[:, None] * teacher.proj.weight.detach().double())
    output = output.unflatten(1, shape).transpose(0, 1)  # (heads, r, width)
    spread, plain = root(reading.covariance), torch.eye(len(stream.down), dtype=torch.float64)
    values = [_factors(out @ read, plain, spread, shape[1]) for out, read in zip(output, value, strict=True)]
    # What a head writes of tokens that are all alike does not depend on where it looks.
    alike = sum(output[head] @ (value[head] @ reading.mean + value_bias[head]) for head in range(shape[0]))
    rows = torch.zeros(3, attn.num_heads, kept, len(plain), dtype=torch.float64)
    offsets = torch.zeros(3, attn.num_heads, kept, dtype=torch.float64)
    written = torch.zeros(len(plain), attn.num_heads, kept, dtype=torch.float64)
    for place, (head, begin) in enumerate(_share_out([found.sizes for found in values], attn.num_heads, kept)):
        extended = torch.block_diag(spread, torch.ones(1, 1, dtype=torch.float64))  # of [z - its mean; 1]
        asked = torch.cat([query[head], (query_bias[head] + query[head] @ reading.mean)[:, None]], 1)
        found = _factors(asked.T @ key[head], extended, spread, kept)
        asks = found.left.T * (kept / shape[1]) ** 0.5  # attention divides by the root of the head's width
        amount = len(asks)
        rows[0, place, :amount], offsets[0, place, :amount] = asks[:, :-1], asks[:, -1] - asks[:, :-1] @ reading.mean
        rows[1, place, :amount] = found.right
        left, right = values[head].left[:, begin : begin + kept], values[head].right[begin : begin + kept]
        amount = len(right)
        rows[2, place, :amount], offsets[2, place, :amount] = right, -right @ reading.mean
        written[:, place, :amount] = left
    attn.qkv.weight.copy_(reading.student(rows.flatten(0, 2)))
    attn.qkv.bias.copy_(offsets.flatten())
    attn.proj.weight.copy_(stream.up @ written.flatten(1))
    attn.proj.bias.copy_(stream.up @ (stream.down @ (gain * _bias(teacher.proj)) + alike))


class Factors(NamedTuple):
    """A matrix (a, b) as left (a, n) @ right (n, b); sizes (n,): its singular values, the largest first."""

    left: Tensor
    right: Tensor
    sizes: Tensor


def _factors(matrix: Tensor, before: Tensor, after: Tensor, rank: int) -> Factors:
    """The best of `rank` for vectors whose second moments are before @ before' on the left, after @ after' right."""
    left, sizes, right = torch.linalg.svd(before.T @ matrix @ after, full_matrices=False)
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    half = sizes.sqrt()
    return Factors(solve_right((left * half).T, before).T, solve_right(half[:, None] * right, after), sizes)


def _share_out(sizes: list[Tensor], heads: int, kept: int) -> list[tuple[int, int]]:
    """Which teacher's head, from which singular value on, each student's head takes: the strongest parts."""
    parts = [
        (float(size[at : at + kept].square().sum()), head, at)
        for head, size in enumerate(sizes)
        for at in range(0, len(size), kept)
    ]
    return sorted((head, at) for _, head, at in sorted(parts, reverse=True)[:heads])


def _mlp(mlp: Mlp, block: ViT, reading: Reading, hidden: Moments, stream: Stream) -> None:
    """The strongest hidden units, and the output layer that makes the best of them."""
    teacher, kept = block.mlp, mlp.fc1.out_features
    weight, bias = reading.linear(teacher.fc1.weight, teacher.fc1.bias)
    gain = _gain(block.ls2)
    output = stream.down @ (gain[:, None] * teacher.fc2.weight.detach().double())  # (r, hidden)
    constant = stream.down @ (gain * _bias(teacher.fc2))
    covariance, mean = hidden.covariance, hidden.mean
    strength = covariance.diagonal() * output.square().sum(0)
    chosen = strength.argsort(descending=True)[:kept].sort().values
    if kept < len(strength):
        fitted = solve(covariance[chosen][:, chosen], covariance[chosen] @ output.T).T  # (r, kept)
    else:
        fitted = output[:, chosen]
    mlp.fc1.weight.copy_(reading.student(weight[chosen]))
    mlp.fc1.bias.copy_(bias[chosen])
    mlp.fc2.weight.copy_(stream.up @ fitted)
    mlp.fc2.bias.copy_(stream.up @ (constant + output @ mean - fitted @ mean[chosen]))


def _gain(scale: ViT) -> Tensor:
    """LayerScale's factors (D,), or one."""
    gamma = getattr(scale, "gamma", None)
    return torch.ones(1, dtype=torch.float64) if gamma is None else gamma.detach().double()


def _bias(layer: nn.Linear) -> Tensor:
    return torch.zeros(layer.out_features, dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()
