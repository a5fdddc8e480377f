"""A student that starts as a smaller copy of its teacher: the weights of a frozen ViT, cut to the student's width.

The residual stream is cut to its principal directions, as in SliceGPT (arXiv 2401.15024); each attention head's
query-key and value-output products are cut to the student's head width by a singular value decomposition; of the MLP's
hidden units the strongest stay, and its output layer is fitted to them. What is strong is measured on training photos.
A student of the teacher's own width starts as the teacher itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from timm.layers import Attention, Mlp, resample_abs_pos_embed, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from train.errors import TrainError

PHOTOS = 512  # of the training photos: some 50,000 tokens, for products of at most a few thousand channels
CLS_SHARE = 0.25  # of the weight of all tokens: a photo's one CLS counts as much as a third of its patches
RIDGE = 1e-6  # relative, where matrices of correlated channels are inverted
LEAVE = "leave out student.init, or set student.init=random"


@dataclass
class Moments:
    """Weighted first and second moments of rows (M, D), in float64."""

    weight: float = 0.0
    first: Tensor = field(default_factory=lambda: torch.zeros(()))
    second: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, rows: Tensor, weights: Tensor) -> None:
        """rows (M, D), weights (M,)."""
        rows, weights = rows.double(), weights.double()
        self.weight += float(weights.sum())
        self.first = self.first + weights @ rows
        self.second = self.second + (rows * weights[:, None]).T @ rows

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return self.first / self.weight

    @property
    def covariance(self) -> Tensor:
        """(D, D)."""
        return self.second / self.weight - torch.outer(self.mean, self.mean)


class Stream:
    """The residual stream in fewer channels: y = up @ down @ x, without the mean over channels that LayerNorm drops.

    down (r, D): the principal directions of the normalised tokens. up (D_s, r): onto channels whose mean is zero.
    """

    def __init__(self, covariance: Tensor, width: int) -> None:
        self.width, self.teacher_width = width, len(covariance)
        centred = torch.eye(self.teacher_width, dtype=torch.float64) - 1 / self.teacher_width
        kept = min(width, self.teacher_width) - 1
        values, vectors = torch.linalg.eigh(centred @ covariance @ centred)
        # Along the mean over channels the covariance is exactly zero; it must not be taken for a direction.
        order = [int(i) for i in values.argsort(descending=True) if abs(float(vectors[:, i].mean())) < 1e-6]
        self.down = vectors[:, order[:kept]].T.contiguous()
        ones = torch.ones(width, 1, dtype=torch.float64)
        basis = torch.linalg.qr(torch.cat([ones, torch.eye(width, dtype=torch.float64)[:, : width - 1]], 1)).Q
        self.up = basis[:, 1 : kept + 1]

    def write(self, weight: Tensor) -> Tensor:
        """(D, ...) that adds to the teacher's stream -> (D_s, ...) that adds to the student's."""
        flat = weight.double().reshape(self.teacher_width, -1)
        return (self.up @ (self.down @ flat)).reshape(self.width, *weight.shape[1:])


class Reading:
    """What a LayerNorm of the teacher gives, told from z = down @ (normalised token), of which the student has r.

    z (M, r) has mean `mean` and covariance `covariance`. The lost directions are predicted from the kept ones.
    """

    def __init__(self, stream: Stream, norm: nn.LayerNorm, moments: Moments) -> None:
        covariance, mean = moments.covariance, moments.mean
        self.mean, self.covariance = stream.down @ mean, stream.down @ covariance @ stream.down.T
        back = _solve(self.covariance, stream.down @ covariance).T  # (D, r)
        gain, offset = norm.weight.detach().double(), norm.bias.detach().double()
        self.back = gain[:, None] * back
        self.offset = gain * (mean - back @ self.mean) + offset
        size = moments.second.diagonal().sum() / moments.weight
        inside = (self.covariance.diagonal() + self.mean**2).sum()
        # The student's LayerNorm makes tokens of D_s channels as long as D_s; what is kept of the teacher's is shorter.
        self.scale = float((inside / size * stream.teacher_width / stream.width).sqrt())
        self.up = stream.up

    def linear(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """A layer behind the norm -> the same of z: weight (out, r), bias (out,)."""
        weight = weight.detach().double()
        plain = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double()
        return weight @ self.back, plain + weight @ self.offset

    def student(self, weight: Tensor) -> Tensor:
        """A layer (out, r) of z -> (out, D_s), of the student's normalised tokens."""
        return self.scale * weight @ self.up.T


def choose(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """The photos that strength is measured on: at most 512 of (N, H, W, 3), evenly spread, as they lie."""
    return torch.from_numpy(pixels[np.linspace(0, len(pixels) - 1, min(PHOTOS, len(pixels)), dtype=int)])


def check_sliceable(vit: nn.Module, student: VisionTransformer) -> None:
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
        raise TrainError(f"a student cannot start from the weights of this {type(vit).__name__}, no plain ViT: {LEAVE}")
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

    def watch(moments: Moments, normalised: bool):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
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


def _attention(attn: Attention, block: nn.Module, reading: Reading, stream: Stream) -> None:
    """Each head's products, cut to the student's head width; spare heads take what was cut from the values."""
    teacher = block.attn
    theirs, width, ours, kept = teacher.num_heads, teacher.head_dim, attn.num_heads, attn.head_dim
    weight, bias = reading.linear(teacher.qkv.weight, teacher.qkv.bias)  # (3 D, r)
    query, key, value = weight.unflatten(0, (3, theirs, width))  # (heads, width, r) each
    query_bias, _, value_bias = bias.unflatten(0, (3, theirs, width))  # of keys: the same for all, so nothing
    output = _gain(block.ls1)[:, None] * teacher.proj.weight.detach().double()
    output = (stream.down @ output).unflatten(1, (theirs, width)).transpose(0, 1)  # (heads, r, width)
    root = _root(reading.covariance)
    constant = stream.down @ (_gain(block.ls1) * _bias(teacher.proj))
    values = []  # per head: left (r, n), singular values (n,), right (n, r)
    for head in range(theirs):
        left, size, right = torch.linalg.svd(output[head] @ value[head] @ root, full_matrices=False)
        values.append((left, size, _solve_right(right, root)))
        constant += output[head] @ (value[head] @ reading.mean + value_bias[head])
    parts = _share_out([size[:width] for _, size, _ in values], ours, kept)
    rows = torch.zeros(3, ours, kept, query.shape[2], dtype=torch.float64)
    offsets = torch.zeros(3, ours, kept, dtype=torch.float64)
    written = torch.zeros(ours, kept, query.shape[2], dtype=torch.float64)
    extended = torch.block_diag(root, torch.ones(1, 1, dtype=torch.float64))  # of [z; 1], z around its mean
    for place, (head, begin) in enumerate(parts):
        centre = query_bias[head] + query[head] @ reading.mean
        asked = torch.cat([query[head], centre[:, None]], 1) @ extended
        left, size, right = torch.linalg.svd(asked.T @ (key[head] @ root), full_matrices=False)
        left, size, right = left[:, :kept], size[:kept].sqrt(), right[:kept]
        found = _solve_right(size[:, None] * left.T, extended) * (kept / width) ** 0.5
        rows[0, place, : len(found)] = found[:, :-1]
        offsets[0, place, : len(found)] = found[:, -1] - found[:, :-1] @ reading.mean
        rows[1, place, : len(size)] = _solve_right(size[:, None] * right, root)
        left, size, right = values[head]
        chosen = slice(begin, min(begin + kept, width))
        amount = len(size[chosen])
        rows[2, place, :amount] = size[chosen].sqrt()[:, None] * right[chosen]
        offsets[2, place, :amount] = -rows[2, place, :amount] @ reading.mean
        written[place, :amount] = (left[:, chosen] * size[chosen].sqrt()).T
    attn.qkv.weight.copy_(reading.student(rows.flatten(0, 2)))
    attn.qkv.bias.copy_(offsets.flatten())
    attn.proj.weight.copy_(stream.up @ written.flatten(0, 1).T)
    attn.proj.bias.copy_(stream.up @ constant)


def _share_out(sizes: list[Tensor], heads: int, kept: int) -> list[tuple[int, int]]:
    """Which teacher's head, from which singular value on, each student's head takes: the strongest parts first."""
    parts = [
        (float((size[at : at + kept] ** 2).sum()), head, at)
        for head, size in enumerate(sizes)
        for at in range(0, len(size), kept)
    ]
    chosen = sorted(parts, reverse=True)[:heads]
    chosen += chosen[:1] * (heads - len(chosen))
    return sorted((head, at) for _, head, at in chosen)


def _mlp(mlp: Mlp, block: nn.Module, reading: Reading, hidden: Moments, stream: Stream) -> None:
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
        fitted = _solve(covariance[chosen][:, chosen], covariance[chosen] @ output.T).T  # (r, kept)
    else:
        fitted = output[:, chosen]
    mlp.fc1.weight.copy_(reading.student(weight[chosen]))
    mlp.fc1.bias.copy_(bias[chosen])
    mlp.fc2.weight.copy_(stream.up @ fitted)
    mlp.fc2.bias.copy_(stream.up @ (constant + output @ mean - fitted @ mean[chosen]))


def _gain(scale: nn.Module) -> Tensor:
    """LayerScale's factors (D,), or one."""
    gamma = getattr(scale, "gamma", None)
    return torch.ones(1, dtype=torch.float64) if gamma is None else gamma.detach().double()


def _bias(layer: nn.Linear) -> Tensor:
    return torch.zeros(layer.out_features, dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()


def _root(covariance: Tensor) -> Tensor:
    """Lower triangular L with L L' = covariance, a little ridge added."""
    return torch.linalg.cholesky(_ridged(covariance))


def _solve(covariance: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.solve(_ridged(covariance), right)


def _solve_right(left: Tensor, root: Tensor) -> Tensor:
    """left @ inverse(root)."""
    return torch.linalg.solve_triangular(root, left, upper=False, left=False)


def _ridged(matrix: Tensor) -> Tensor:
    return matrix + RIDGE * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
