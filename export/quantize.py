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

from export.graph import F32, Weights
from export.onnx_writer import PIXELS, Range, inputs_of, write

METHOD = "static QDQ, int8 weights per channel, folded SmoothQuant, ranges by extremes"
FLOAT_BELOW = 64 * 1024  # weights: smaller linears with a single row gain nothing
Seen = dict[str, tuple[F32, F32]]  # linear -> least and largest value (or 0) of each channel of its input


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
    ranges = {name: (float(low.min()), float(high.max())) for name, (low, high) in _observe(weights, photos).items()}
    return Calibrated(weights, ranges | {"embed": PIXELS})


def quantize(calibrated: Calibrated, kept: Sequence[str] = ()) -> onnx.ModelProto:
    """The int8 graph; the linears `kept` are computed in float, with weights in float16."""
    weights = calibrated.weights
    small = (name for name in ("space", *weights.reads) if weights.pairs[name][0].size < FLOAT_BELOW)
    skipped = {*kept, *small}
    ranges = {name: seen for name, seen in calibrated.ranges.items() if name not in skipped}
    return write(weights, "rows", ranges, half=True, split_heads=True)


def _observe(weights: Weights, photos: npt.NDArray[np.uint8]) -> Seen:
    """The inputs of the linears; memory does not grow with the photos."""
    proto = write(weights, "rows", taps=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    reads = inputs_of(proto.graph.node)
    tensors = sorted(set(reads.values()))
    seen: Seen = {}
    for photo in photos:
        for tensor, value in zip(tensors, session.run(tensors, {"image": photo[None]}), strict=True):
            low, high = seen.get(tensor, (np.zeros_like(value[0]), np.zeros_like(value[0])))
            seen[tensor] = np.minimum(low, value.min(0)), np.maximum(high, value.max(0))
    return {name: seen[tensor] for name, tensor in reads.items()}


def _smooth(weights: Weights, seen: Seen, alpha: float) -> Weights:
    """The same graph, with factors folded in on both sides of each linear's input."""
    pairs = dict(weights.pairs)
    for name in (f"blocks.{rank}" for rank in range(weights.depth)):
        inputs = seen[f"{name}.qkv" if f"{name}.qkv" in seen else f"{name}.kv"]  # the last block may have kv
        for norm, part, values in (("norm1", "qkv", inputs), ("norm2", "fc1", seen[f"{name}.fc1"])):
            (gain, shift), (weight, bias) = pairs[f"{name}.{norm}"], pairs[f"{name}.{part}"]
            factors = _factors(values, weight, alpha)
            pairs[f"{name}.{norm}"] = gain / factors, shift / factors
            pairs[f"{name}.{part}"] = weight * factors[:, None], bias
        (weight, bias), (proj, rest) = pairs[f"{name}.qkv"], pairs[f"{name}.proj"]
        factors = _factors(seen[f"{name}.proj"], proj, alpha)
        into_v = np.concatenate([np.ones(2 * len(factors), np.float32), 1 / factors])
        pairs[f"{name}.qkv"] = weight * into_v, bias * into_v
        pairs[f"{name}.proj"] = proj * factors[:, None], rest
    return replace(weights, pairs=pairs)


def _factors(seen: tuple[F32, F32], weight: F32, alpha: float) -> F32:
    """The factors by which activations are divided and weights multiplied, per channel; their geometric mean is 1."""
    largest = np.maximum(-seen[0], seen[1])
    factors = np.maximum(largest, 1e-5) ** alpha / np.maximum(np.abs(weight).max(1), 1e-5) ** (1 - alpha)
    centred: F32 = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return centred
