"""The deployed graph: uint8 pixels in; embedding, teacher_embedding and a logits output per head out.

Everything that a user could get wrong (scaling, normalisation, L2) is inside. Only resize and crop stay outside, in
`leap_zoo.preprocess`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.run import Run


class DeployedStudent(nn.Module):
    """image uint8 (B, H, W, 3) RGB -> float32 outputs in the order of `names`.

    embedding (B, D_s) and teacher_embedding (B, D_t), both L2-normalised; logits_<head> (B, classes) for each head.
    """

    scale: Tensor
    shift: Tensor
    space_weight: Tensor
    space_bias: Tensor

    def __init__(self, run: Run) -> None:
        super().__init__()
        info = run.info
        self.student = run.student
        self.prefix = run.student.num_prefix_tokens  # CLS and registers, which are no patches
        self.pooling = info.pooling
        self.heads, self.default_head = info.heads, info.default_head
        self.mean, self.std, self.tensors = info.mean, info.std, run.tensors
        self.names = ["embedding", "teacher_embedding", *(f"logits_{head.name}" for head in info.heads)]
        mean, std = torch.tensor(info.mean), torch.tensor(info.std)
        # (pixels / 255 - mean) / std as one multiply-add
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))
        self.register_buffer("space_weight", run.tensors["projection.cls.weight"])
        self.register_buffer("space_bias", run.tensors["projection.cls.bias"])
        for rank, head in enumerate(info.heads):
            self.register_buffer(f"head_{rank}_weight", run.tensors[f"heads.{head.name}.weight"])
            self.register_buffer(f"head_{rank}_bias", run.tensors[f"heads.{head.name}.bias"])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        pixels = image.permute(0, 3, 1, 2).float() * self.scale + self.shift  # (B, 3, H, W)
        tokens = self.student.forward_features(pixels)  # (B, prefix + N, D_s)
        cls = tokens[:, 0]
        embedding = cls if self.pooling == "cls" else _mean(tokens[:, self.prefix :])  # (B, D_s)
        teacher = functional.linear(cls, self.space_weight, self.space_bias)  # (B, D_t)
        logits = []
        for rank, head in enumerate(self.heads):
            features = embedding if head.features == "embedding" else teacher
            weight, bias = getattr(self, f"head_{rank}_weight"), getattr(self, f"head_{rank}_bias")
            logits.append(functional.linear(features, weight, bias))
        return _unit(embedding), _unit(teacher), *logits


def _mean(tokens: Tensor) -> Tensor:
    """Tokens (B, N, D) -> (B, D). Not Tensor.mean: the converter gives ReduceMean an attribute that opset 17 lacks."""
    return tokens.sum(1) / tokens.shape[1]


def _unit(x: Tensor) -> Tensor:
    """L2-normalised rows. Not functional.normalize: its norm becomes an operator that opset 17 cannot express."""
    return x * torch.rsqrt((x * x).sum(1, keepdim=True) + 1e-12)
