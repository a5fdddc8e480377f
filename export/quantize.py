"""int8 for ONNX Runtime: static, calibrated on photos, with SmoothQuant at no cost at run time.

Every linear except small ones at the end is uint8 x int8 per channel; attention products, Softmax, LayerNorm, Gelu and
the residual stream stay float. The factors of SmoothQuant (arXiv 2211.10438) are folded into the LayerNorm before qkv
and fc1, and into V before proj; a general quantizer leaves them as separate nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from export.graph import F32, Block, Weights
from export.onnx_writer import PIXELS, Range, write

METHOD = "static QDQ, int8 weights per channel, folded SmoothQuant, ranges by extremes"
FLOAT_BELOW = 64 * 1024  # weights: smaller linears with a single row gain nothing


@dataclass(frozen=True)
class Calibrated:
    """Smoothed weights, and the input range of each linear on the calibration photos."""

    weights: Weights
    ranges: dict[str, Range]


def calibrate(weights: Weights, photos: npt.NDArray[np.uint8], alpha: float) -> Calibrated:
    """Measure the inputs of each linear on photos uint8 (N, H, W, 3), one at a time; smooth; measure again.

    alpha: how much of the activations' range moves into the weights, 0 (none) to 1.
    """
    if alpha > 0:
        weights = _smooth(weights, _observe(weights, photos), alpha)
    ranges = {name: (seen.low, seen.high) for name, seen in _observe(weights, photos).items()}
    return Calibrated(weights, ranges | {"embed": PIXELS})


def quantize(calibrated: Calibrated, kept: Sequence[str] = ()) -> onnx.ModelProto:
    """The int8 graph; the linears `kept` are computed in float."""
    weights = calibrated.weights
    single = {"space": weights.space, **{f"logits_{name}": linear for name, _, linear in weights.logits}}
    skipped = {name for name, linear in single.items() if linear[0].size < FLOAT_BELOW} | set(kept)
    ranges = {name: seen for name, seen in calibrated.ranges.items() if name not in skipped}
    return write(weights, "rows", ranges, split_heads=True).proto


def alone(calibrated: Calibrated, layer: str) -> onnx.ModelProto:
    """The graph with one linear in int8 and all others in float."""
    return write(calibrated.weights, "rows", {layer: calibrated.ranges[layer]}).proto


@dataclass(frozen=True)
class _Seen:
    """Extremes of a linear's input, and the largest magnitude per input channel (in,)."""

    low: float
    high: float
    channels: F32

    def with_more(self, value: F32) -> _Seen:
        return _Seen(
            min(self.low, float(value.min())),
            max(self.high, float(value.max())),
            np.maximum(self.channels, np.abs(value).max(0)),
        )


def _observe(weights: Weights, photos: npt.NDArray[np.uint8]) -> dict[str, _Seen]:
    """Input extremes by linear. Only running extremes are stored, so memory does not grow with the photos."""
    written = write(weights, "rows", taps=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    data = written.proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    reads = {name: tensor for name, tensor in written.reads.items() if name != "embed"}
    tensors = sorted(set(reads.values()))
    seen: dict[str, _Seen] = {}
    for photo in photos:
        values = dict(zip(tensors, session.run(tensors, {"image": photo[None]}), strict=True))
        for name, tensor in reads.items():
            width = values[tensor].shape[-1]
            seen[name] = seen.get(name, _Seen(0.0, 0.0, np.zeros(width, np.float32))).with_more(values[tensor])
    return seen


def _smooth(weights: Weights, seen: dict[str, _Seen], alpha: float) -> Weights:
    blocks = []
    for rank, block in enumerate(weights.blocks):
        name = f"blocks.{rank}"
        qkv = seen[f"{name}.qkv" if f"{name}.qkv" in seen else f"{name}.kv"].channels  # the last block may have kv
        blocks.append(_smooth_block(block, qkv, seen[f"{name}.proj"].channels, seen[f"{name}.fc1"].channels, alpha))
    return replace(weights, blocks=tuple(blocks))


def _smooth_block(block: Block, qkv: F32, proj: F32, fc1: F32, alpha: float) -> Block:
    """The block with its factors folded in; qkv, proj, fc1: largest magnitudes of their inputs, per channel."""
    first = _factors(qkv, block.qkv[0], alpha)
    second = _factors(fc1, block.fc1[0], alpha)
    third = _factors(proj, block.proj[0], alpha)
    into_v = np.concatenate([np.ones(2 * len(third), np.float32), 1 / third])
    return replace(
        block,
        norm1=(block.norm1[0] / first, block.norm1[1] / first),
        qkv=(block.qkv[0] * first[:, None] * into_v, block.qkv[1] * into_v),
        proj=(block.proj[0] * third[:, None], block.proj[1]),
        norm2=(block.norm2[0] / second, block.norm2[1] / second),
        fc1=(block.fc1[0] * second[:, None], block.fc1[1]),
    )


def _factors(channels: F32, weight: F32, alpha: float) -> F32:
    """The factors by which activations are divided and weights multiplied, per channel; their geometric mean is 1."""
    factors = np.maximum(channels, 1e-5) ** alpha / np.maximum(np.abs(weight).max(1), 1e-5) ** (1 - alpha)
    centred: F32 = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return centred
