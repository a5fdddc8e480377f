"""A student that starts as a smaller copy of its teacher: the weights of a frozen ViT, cut to the student's width.

docs/training.md explains the method; the residual stream is cut as in SliceGPT (arXiv 2401.15024). Strength is measured
on training photos. A student of the teacher's own width starts as the teacher itself.
"""

from __future__ import annotations

import torch
from timm.layers import Attention, Mlp, resample_abs_pos_embed, resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from train.errors import TrainError
from train.method.teacher import ViT

RIDGE = 1e-6  # relative to the mean variance
CLS_SHARE = 0.25  # of the weight of all tokens: a photo's one CLS counts as much as a third of its patches


def check_sliceable(vit: ViT, student: VisionTransformer) -> None:
    """Refuse a teacher that `student` cannot start from. Raises TrainError."""
    plain = (
        isinstance(vit, VisionTransformer)
        and isinstance(vit.norm, nn.LayerNorm)
        and isinstance(vit.norm_pre, nn.Identity)
        and vit.pos_embed is not None
        and vit.pos_embed.shape[1] == vit.num_prefix_tokens + vit.patch_embed.num_patches  # CLS and registers have one
        and all(
            type(block.attn) is Attention
            and type(block.mlp) is Mlp
            and isinstance(block.norm1, nn.LayerNorm)
            and all(isinstance(x, nn.Identity) for x in (block.attn.q_norm, block.attn.norm, block.mlp.norm))
            for block in vit.blocks
        )
    )
    registers = vit.num_prefix_tokens - 1
    if not plain:
        why = f"a student cannot start from the weights of this {type(vit).__name__}, which is not a plain ViT"
    elif student.embed_dim > vit.embed_dim or len(student.blocks) > len(vit.blocks):
        why = (
            f"a student of width {student.embed_dim} and {len(student.blocks)} blocks cannot start from a teacher of "
            f"width {vit.embed_dim} and {len(vit.blocks)} blocks, which is smaller"
        )
    elif student.num_prefix_tokens != vit.num_prefix_tokens:
        why = f"a student of a teacher with {registers} registers needs as many: set student.registers={registers}"
    elif not isinstance(student.blocks[0].ls1, nn.Identity):
        why = "student.layerscale and student.init=teacher exclude each other"
    else:
        return
    raise TrainError(f"{why}: leave out student.init, or set student.init=random")


@torch.no_grad()
def start_from_teacher(
    student: VisionTransformer, projection: nn.Linear, vit: VisionTransformer, images: Tensor
) -> None:
    """Overwrite a student's weights, and the projection g into the teacher's space, by the teacher's, cut to size.

    images (B, 3, H, W): normalized training photos at the teacher's size. `check_sliceable` says whom it can cut.
    """
    found = _measure(vit, images)
    norms = [moments for module, moments in found.items() if isinstance(module, nn.LayerNorm)]
    every = torch.stack([moments.second for moments in norms]).sum(0) / sum(moments.weight for moments in norms)
    stream = Stream(every, student.embed_dim)
    _embeddings(student, vit, stream)
    for number, block in enumerate(student.blocks, 1):
        teacher = vit.blocks[round(number * len(vit.blocks) / len(student.blocks)) - 1]
        _attention(block.attn, teacher, Reading(stream, teacher.norm1, found[teacher.norm1]), stream)
        _mlp(block.mlp, teacher, Reading(stream, teacher.norm2, found[teacher.norm2]), found[teacher.mlp.fc2], stream)
    last = Reading(stream, vit.norm, found[vit.norm])
    projection.weight.copy_(last.student(last.back))
    projection.bias.copy_(last.offset)


def _measure(vit: VisionTransformer, images: Tensor) -> dict[nn.Module, Moments]:
    """Moments of the normalized tokens at each LayerNorm, and of the hidden units before each `mlp.fc2`."""
    modules = [module for block in vit.blocks for module in (block.norm1, block.norm2, block.mlp.fc2)] + [vit.norm]
    found = {module: Moments() for module in modules}
    tokens = vit.num_prefix_tokens + vit.patch_embed.num_patches
    weights = torch.full((tokens,), (1 - CLS_SHARE) / (tokens - 1))
    weights[0] = CLS_SHARE

    def hook(module: ViT, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].float()
        if isinstance(module, nn.LayerNorm):
            rows = nn.functional.layer_norm(rows, rows.shape[-1:], eps=module.eps)
        found[module].add(rows.flatten(0, 1).cpu(), weights.repeat(len(rows)))

    hooks = [module.register_forward_pre_hook(hook) for module in modules]
    for part in images.split(64):
        vit.forward_features(part)
    for handle in hooks:
        handle.remove()
    return found


def _embeddings(student: VisionTransformer, vit: VisionTransformer, stream: Stream) -> None:
    """Patches and positions, resampled; CLS and registers."""
    ours, theirs = student.patch_embed, vit.patch_embed
    ours.proj.weight.copy_(stream.write(resample_patch_embed(theirs.proj.weight.float(), list(ours.patch_size))))
    ours.proj.bias.copy_(stream.write(_bias(theirs.proj)))
    prefix = vit.num_prefix_tokens
    positions = resample_abs_pos_embed(vit.pos_embed.float(), list(ours.grid_size), num_prefix_tokens=prefix)
    for name, value in (("pos_embed", positions), ("cls_token", vit.cls_token), ("reg_token", vit.reg_token)):
        if value is not None:
            getattr(student, name).copy_(stream.write(value[0].T).T[None])


def _attention(attn: Attention, block: ViT, reading: Reading, stream: Stream) -> None:
    """Each head's products, cut to the student's head width; spare heads take what was cut from the values."""
    teacher, kept = block.attn, attn.head_dim
    shape = (teacher.num_heads, teacher.head_dim)
    weight, biases = reading.linear(teacher.qkv)  # (3 D, r), (3 D,)
    query, key, value = weight.unflatten(0, (3, *shape))  # (heads, width, r) each
    query_bias, _, value_bias = biases.unflatten(0, (3, *shape))  # that of keys adds the same to all logits: nothing
    output, constant = _written(teacher.proj, block.ls1, stream)
    output = output.unflatten(1, shape).transpose(0, 1)  # (heads, r, width)
    spread = torch.linalg.cholesky(_ridged(reading.covariance))
    plain = torch.eye(len(spread), dtype=torch.float64)
    values = [_factors(out @ read, plain, spread, shape[1]) for out, read in zip(output, value, strict=True)]
    # What a head writes of tokens that are all alike does not depend on where it looks.
    alike = sum(output[head] @ (value[head] @ reading.mean + value_bias[head]) for head in range(shape[0]))
    rows = torch.zeros(3, attn.num_heads, kept, len(plain), dtype=torch.float64)
    offsets = torch.zeros(3, attn.num_heads, kept, dtype=torch.float64)
    written = torch.zeros(len(plain), attn.num_heads, kept, dtype=torch.float64)
    extended = torch.block_diag(spread, torch.ones(1, 1, dtype=torch.float64))  # of [z - its mean; 1]
    for place, (head, begin) in enumerate(_share_out([sizes for *_, sizes in values], attn.num_heads, kept)):
        asked = torch.cat([query[head], (query_bias[head] + query[head] @ reading.mean)[:, None]], 1)
        left, right, _ = _factors(asked.T @ key[head], extended, spread, kept)
        asks = left.T * (kept / shape[1]) ** 0.5  # attention divides by the root of the head's width
        amount = len(asks)
        rows[0, place, :amount], offsets[0, place, :amount] = asks[:, :-1], asks[:, -1] - asks[:, :-1] @ reading.mean
        rows[1, place, :amount] = right
        left, right = values[head][0][:, begin : begin + kept], values[head][1][begin : begin + kept]
        amount = len(right)
        rows[2, place, :amount], offsets[2, place, :amount] = right, -right @ reading.mean
        written[:, place, :amount] = left
    attn.qkv.weight.copy_(reading.student(rows.flatten(0, 2)))
    attn.qkv.bias.copy_(offsets.flatten())
    attn.proj.weight.copy_(stream.up @ written.flatten(1))
    attn.proj.bias.copy_(stream.up @ (constant + alike))


def _factors(matrix: Tensor, before: Tensor, after: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix (a, b) as left (a, rank) @ right (rank, b), and its singular values, the largest first.

    The best for vectors whose second moments are before @ before' on the left, after @ after' on the right; both are
    lower triangular.
    """
    left, sizes, right = torch.linalg.svd(before.T @ matrix @ after, full_matrices=False)
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    half = sizes.sqrt()
    left = torch.linalg.solve_triangular(before, (left * half).T, upper=False, left=False).T
    return left, torch.linalg.solve_triangular(after, half[:, None] * right, upper=False, left=False), sizes


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
    weight, biases = reading.linear(teacher.fc1)
    output, constant = _written(teacher.fc2, block.ls2, stream)  # (r, hidden), (r,)
    covariance, mean = hidden.covariance, hidden.mean
    strength = covariance.diagonal() * output.square().sum(0)
    chosen = strength.argsort(descending=True)[:kept].sort().values
    fitted = output[:, chosen]  # (r, kept)
    if kept < len(strength):
        fitted = torch.linalg.solve(_ridged(covariance[chosen][:, chosen]), covariance[chosen] @ output.T).T
    mlp.fc1.weight.copy_(reading.student(weight[chosen]))
    mlp.fc1.bias.copy_(biases[chosen])
    mlp.fc2.weight.copy_(stream.up @ fitted)
    mlp.fc2.bias.copy_(stream.up @ (constant + output @ mean - fitted @ mean[chosen]))


def _written(layer: nn.Linear, scale: ViT, stream: Stream) -> tuple[Tensor, Tensor]:
    """The last layer of a branch, LayerScale folded in, as it adds to the kept directions: (r, in), (r,)."""
    gain = scale.gamma.double() if hasattr(scale, "gamma") else torch.ones(1, dtype=torch.float64)
    return stream.down @ (gain[:, None] * layer.weight.double()), stream.down @ (gain * _bias(layer))


class Moments:
    """Weighted first and second moments of rows (M, D), in float64."""

    def __init__(self) -> None:
        self.weight, self.first, self.second = 0.0, torch.zeros(()), torch.zeros(())

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

    down (r, D): the principal directions of the normalized tokens, whose second moment is `covariance` (D, D).
    up (D_s, r): onto channels whose mean is zero.
    """

    def __init__(self, covariance: Tensor, width: int) -> None:
        centred = torch.eye(len(covariance), dtype=torch.float64) - 1 / len(covariance)
        kept = min(width, len(covariance)) - 1
        values, vectors = torch.linalg.eigh(centred @ covariance @ centred)
        # Along the mean over channels the covariance is exactly zero; it must not be taken for a direction.
        order = [int(i) for i in values.argsort(descending=True) if abs(float(vectors[:, i].mean())) < 1e-6]
        self.down = vectors[:, order[:kept]].T.contiguous()
        ones = torch.ones(width, 1, dtype=torch.float64)
        basis = torch.linalg.qr(torch.cat([ones, torch.eye(width, dtype=torch.float64)[:, : width - 1]], 1)).Q
        self.up = basis[:, 1 : kept + 1]

    def write(self, weight: Tensor) -> Tensor:
        """(D, ...) that adds to the teacher's stream -> (D_s, ...) that adds to the student's."""
        flat = weight.double().reshape(len(weight), -1)
        return (self.up @ (self.down @ flat)).reshape(-1, *weight.shape[1:])


class Reading:
    """The output of a teacher's LayerNorm, predicted from z = down @ (normalized token), of which the student has r.

    z (M, r) has mean `mean` and covariance `covariance`. The lost directions are predicted from the kept ones: the norm
    gives `back` (D, r) @ z + `offset` (D,).
    """

    def __init__(self, stream: Stream, norm: nn.LayerNorm, moments: Moments) -> None:
        covariance, mean = moments.covariance, moments.mean
        self.mean, self.covariance = stream.down @ mean, stream.down @ covariance @ stream.down.T
        back = torch.linalg.solve(_ridged(self.covariance), stream.down @ covariance).T
        gain, offset = norm.weight.double(), norm.bias.double()
        self.back = gain[:, None] * back
        self.offset = gain * (mean - back @ self.mean) + offset
        size = moments.second.diagonal().sum() / moments.weight
        inside = (self.covariance.diagonal() + self.mean**2).sum()
        # The student's LayerNorm makes tokens of D_s channels as long as D_s; what is kept of the teacher's is shorter.
        self.scale = float((inside / size * len(mean) / len(stream.up)).sqrt())
        self.up = stream.up

    def linear(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """A layer behind the norm -> the same of z: weight (out, r), bias (out,)."""
        weight = layer.weight.double()
        return weight @ self.back, _bias(layer) + weight @ self.offset

    def student(self, weight: Tensor) -> Tensor:
        """A layer (out, r) of z -> (out, D_s), of the student's normalized tokens."""
        return self.scale * weight @ self.up.T


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """A layer's bias (out,), or zeros."""
    return torch.zeros(len(layer.weight), dtype=torch.float64) if layer.bias is None else layer.bias.double()


def _ridged(covariance: Tensor) -> Tensor:
    """A covariance (n, n) of correlated channels, made safe to invert."""
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
