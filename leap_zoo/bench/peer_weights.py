"""The weights of a student in timm's names, read back from its published fp32 ONNX file.

Exporters rename, transpose and fold, so names are not trusted. What is trusted is the order of a vision transformer:
from its first LayerNorm on, parameters are taken in the order in which the graph uses them. What lies before (scaling,
patches, positions) is affine however it was rewritten: it is probed with photos of single bright pixels. A mistake
here cannot go unnoticed, because `leap_zoo.bench.peer` compares the outputs before anything is timed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from leap_zoo.card import Architecture, ModelCard
from leap_zoo.errors import InvalidArgument, MissingExtra

Weights = dict[str, npt.NDArray[np.float32]]

GREY = 127  # about the mean of a photo: there the graph's sums are small, and float32 rounds little away
SPACE = "space"  # the projection into the teacher's space: `space.weight`, `space.bias`


def read_weights(data: bytes, card: ModelCard) -> Weights:
    """Parameters of timm's `VisionTransformer`, then `space.*` and `<features>/<output>.*` of every head.

    data: the fp32 ONNX file of `card`. features: what a head looks at, `embedding`, `cls` or `teacher`. The patch
    embedding expects (pixels - GREY) / 255. Raises InvalidArgument when the graph is no such student, MissingExtra.
    """
    if card.architecture is None:
        raise InvalidArgument(f"the card of {card.id} does not say its architecture: export it again")
    graph = _Graph(_import_onnx().load_model_from_string(data).graph)
    norm = next((i for i, node in enumerate(graph.nodes) if node.op_type == "LayerNormalization"), None)
    if norm is None:
        raise _refusal(card, "it has no LayerNormalization")
    uses = deque(graph.uses(norm))
    try:
        weights = _stem(data, norm, card, card.architecture) | _trunk(uses, card.architecture)
    except IndexError:
        raise _refusal(card, "it ends too early") from None
    except _Unlike as error:
        raise _refusal(card, str(error)) from error
    if not graph.scales_attention(norm):  # then the scale is in the weights, and torch would apply it again
        width = card.architecture.width
        for name in [name for name in weights if ".attn.qkv." in name]:
            weights[name] = weights[name].copy()
            weights[name][:width] *= math.sqrt(width / card.architecture.heads)
    return weights | _heads(list(uses), graph, card)


@dataclass(frozen=True)
class _Use:
    """A parameter where the graph uses it. Matrices are (out, in), as torch has them."""

    values: npt.NDArray[np.float32]
    node: Any


class _Graph:
    def __init__(self, graph: Any) -> None:
        to_array = import_module("onnx.numpy_helper").to_array
        self.nodes = list(graph.node)
        self.constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = to_array(node.attribute[0].t)

    def uses(self, start: int) -> Iterator[_Use]:
        """Float constants of more than one number, from node `start` on, in the order of use."""
        for node in self.nodes[start:]:
            for name in node.input:
                values = self.constants.get(name)
                if values is not None and values.dtype == np.float32 and values.size > 1:
                    yield _Use(values.T if values.ndim == 2 and _multiplies_from_the_right(node) else values, node)

    def scales_attention(self, start: int) -> bool:
        """Whether a Mul or Div by one number comes before the first Softmax."""
        for node in self.nodes[start:]:
            if node.op_type == "Softmax":
                break
            numbers = [self.constants[name] for name in node.input if name in self.constants]
            if node.op_type in ("Mul", "Div") and any(number.size == 1 for number in numbers):
                return True
        return False


def _multiplies_from_the_right(node: Any) -> bool:
    """Whether the node computes x @ W with its matrix as it lies in the file, (in, out)."""
    if node.op_type == "Gemm":
        return not any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return bool(node.op_type == "MatMul")


class _Unlike(Exception):
    """What the graph has where something else was expected."""


def _trunk(uses: deque[_Use], shape: Architecture) -> Weights:
    """Blocks and the last norm; leaves the uses that come after them. Raises _Unlike, IndexError."""
    width, inner = shape.width, round(shape.width * shape.mlp_ratio)
    weights: Weights = {}
    for block in range(shape.depth):
        for norm, scale, layers in (
            ("norm1", "ls1", {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}),
            ("norm2", "ls2", {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}),
        ):
            prefix = f"blocks.{block}."
            weights |= _norm(uses, prefix + norm, width)
            for layer, size in layers.items():
                weights |= _linear(uses, prefix + layer, size)
            if shape.layer_scale:  # or it was multiplied into the layer before
                folded = uses[0].node.op_type == "LayerNormalization"
                weights[f"{prefix}{scale}.gamma"] = np.ones(width, np.float32) if folded else uses.popleft().values
    return weights | _norm(uses, "norm", width)


def _norm(uses: deque[_Use], name: str, width: int) -> Weights:
    scale = uses.popleft()
    bias = np.zeros(width, np.float32)  # where it was moved into the layer after
    if uses and uses[0].node is scale.node:
        bias = uses.popleft().values
    if scale.node.op_type != "LayerNormalization" or scale.values.shape != (width,):
        raise _Unlike(f"where {name} should be is a {scale.node.op_type} of {scale.values.shape}")
    return {f"{name}.weight": scale.values, f"{name}.bias": bias}


def _linear(uses: deque[_Use], name: str, size: tuple[int, int]) -> Weights:
    """One layer (out, in), which the graph may have in parts: queries, then keys and values, for example."""
    matrices: list[npt.NDArray[np.float32]] = []
    biases: list[npt.NDArray[np.float32]] = []
    while sum(map(len, matrices)) < size[0] or sum(map(len, biases)) < size[0]:
        use = uses.popleft()
        if use.node.op_type == "LayerNormalization" or use.values.ndim > 2:
            raise _Unlike(f"in the midst of {name} is a {use.node.op_type} of {use.values.shape}")
        (matrices if use.values.ndim == 2 else biases).append(use.values)
    if any(matrix.shape[1] != size[1] for matrix in matrices):
        raise _Unlike(f"where {name} {size} should be is {[matrix.shape for matrix in matrices]}")
    weights = {f"{name}.weight": np.concatenate(matrices), f"{name}.bias": np.concatenate(biases)}
    if weights[f"{name}.weight"].shape != size or weights[f"{name}.bias"].shape != size[:1]:
        raise _Unlike(f"where {name} {size} should be is {[matrix.shape for matrix in matrices]}")
    return weights


def _stem(data: bytes, norm: int, card: ModelCard, shape: Architecture) -> Weights:
    """Patch embedding and positions: what a grey photo gives, and what each pixel of a patch adds to that.

    norm: the first LayerNorm, which gets the tokens (B, prefix + N, D).
    """
    size, patch, prefix, width = card.preprocessing.size, shape.patch, 1 + shape.registers, shape.width
    run = _before(data, norm)
    grey = run(np.full((1, size, size, 3), GREY, np.uint8))
    across = size // patch
    if grey.size != (prefix + across * across) * width:
        raise _Unlike(f"its first block gets {grey.shape}, not {prefix + across * across} tokens of {width}")
    grey = grey.reshape(-1, width)  # (prefix + N, D)
    kernel = np.empty((width, 3, patch, patch), np.float32)
    for y in range(patch):
        photos = np.full((3 * patch, size, size, 3), GREY, np.uint8)  # per photo one pixel is bright, in every patch
        for channel in range(3):
            for x in range(patch):
                photos[channel * patch + x, y::patch, x::patch, channel] = 255
        added = run(photos).reshape(3 * patch, -1, width)[:, prefix:] - grey[prefix:]
        kernel[:, :, y] = (added.mean(1) * (255 / (255 - GREY))).T.reshape(width, 3, patch)
    weights = {
        "patch_embed.proj.weight": kernel,
        "patch_embed.proj.bias": np.zeros(width, np.float32),
        "cls_token": np.zeros((1, 1, width), np.float32),
        "pos_embed": grey[None],
    }
    if shape.registers:
        weights["reg_token"] = np.zeros((1, shape.registers, width), np.float32)
    return weights


def _before(data: bytes, norm: int) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """The graph before node `norm`: uint8 photos (B, H, W, 3) -> what that node gets."""
    onnx = _import_onnx()
    model = onnx.load_model_from_string(data)
    value = model.graph.node[norm].input[0]
    del model.graph.node[norm:], model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it would warn of each weight that is no longer used
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda photos: np.asarray(session.run([value], {"image": photos})[0], np.float32)


def _heads(uses: list[_Use], graph: _Graph, card: ModelCard) -> Weights:
    """The linear layers after the trunk: one for each head, by the name of its output, and the teacher's space."""
    layers = {}  # name of what a layer gives -> its matrix, its bias, the name of what it takes
    for use in uses:
        if use.values.ndim == 2:
            takes = next((name for name in use.node.input if name not in graph.constants), "")
            gives, bias = use.node.output[0], np.zeros(len(use.values), np.float32)
            for other in uses:
                added = other.node.op_type == "Add" and gives in other.node.input
                if other.values.ndim == 1 and (added or other.node is use.node):
                    gives, bias = other.node.output[0], other.values
            layers[gives] = (use.values, bias, takes)
    outputs = {head.output for head in card.heads}
    spaces = [name for name in layers if name not in outputs]
    missing = outputs - set(layers)
    if missing or len(spaces) != 1:
        raise _refusal(card, f"its last layers are {', '.join(sorted(layers)) or 'none'}")
    (space,) = spaces
    found: Weights = {}
    for name, (matrix, bias, takes) in layers.items():
        features = "teacher" if takes == space else "cls" if takes == layers[space][2] else "embedding"
        key = SPACE if name == space else f"{features}/{name}"
        found |= {f"{key}.weight": matrix, f"{key}.bias": bias}
    return found


def _refusal(card: ModelCard, reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"the fp32 file of {card.id} is not the plain student that its card describes ({reason}): "
        "its peer in torch cannot be built; bench without --against"
    )


def _import_onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError as error:
        raise MissingExtra(
            f'--against reads weights with onnx, which cannot be imported ({error}): pip install "leap-zoo[export]"'
        ) from error
