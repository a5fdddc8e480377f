"""`python -m tools.restore MODEL --out FOLDER`: torch weights of a published student, from its int8 ONNX file.

For training a student further (`student.init=FOLDER`) if its folder has no `model.safetensors`. The weights are the
int8 ones times their scales, so the restored student is what the file computes, with activations in float32.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from export.graph import CENTER
from leap_zoo.card import File, ModelCard
from leap_zoo.store import ModelFolder
from train.published import PROJECTION, WEIGHTS

F64 = npt.NDArray[np.float64]
Pair = tuple[F64, F64]  # weight and bias of a linear, (in, out) and (out,), or of a norm


def restore(card: ModelCard, data: bytes, mean: F64, std: F64) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The bytes of `model_int8.onnx` -> state dicts of the timm ViT, and of the projection into the teacher's space.

    mean, std: (3,), the normalization of pixels in 0..1 that the student was trained with; the file has it folded in.
    """
    proto = onnx.load_from_string(data)
    linears, norms, tokens = _linears(proto), _norms(proto), _tokens(proto)
    shape = card.architecture
    assert shape is not None  # every card of `export` has it
    weight, bias = next(linears)  # of the patches, of (pixels - CENTER) / CENTER
    kernel = (weight / CENTER).reshape(shape.patch, shape.patch, 3, shape.width).transpose(3, 2, 0, 1)
    bias = bias - (kernel * (CENTER - 255 * mean)[:, None, None]).sum((1, 2, 3))
    found: dict[str, F64] = {
        "cls_token": tokens[1],
        "pos_embed": np.concatenate([np.zeros_like(tokens[1]), tokens[0]], 1),
        "patch_embed.proj.weight": kernel * (255 * std)[:, None, None],
        "patch_embed.proj.bias": bias,
    }
    for block in (f"blocks.{rank}" for rank in range(shape.depth)):
        _put(found, f"{block}.norm1", next(norms))
        qkv = [next(linears)]
        if block == f"blocks.{shape.depth - 1}":  # the last block's queries are of CLS alone: a linear of their own
            qkv.append(next(linears))
        weight, bias = (np.concatenate(parts, -1) for parts in zip(*qkv, strict=True))
        factor = np.ones(len(bias))
        factor[: shape.width] = (shape.width // shape.heads) ** 0.5
        _put(found, f"{block}.attn.qkv", (weight * factor, bias * factor))
        _put(found, f"{block}.attn.proj", next(linears))
        _put(found, f"{block}.norm2", next(norms))
        _put(found, f"{block}.mlp.fc1", next(linears))
        _put(found, f"{block}.mlp.fc2", next(linears))
    _put(found, "norm", next(norms))
    space: dict[str, F64] = {}
    _put(space, "projection", next(linears))
    student, projection = (
        {name: torch.tensor(value).float().contiguous() for name, value in part.items()} for part in (found, space)
    )
    vit = VisionTransformer(
        img_size=card.preprocessing.size,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp_ratio,
        num_classes=0,
    )
    vit.load_state_dict(student)  # strict: every name and every shape
    return student, projection


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tools.restore", description=__doc__)
    parser.add_argument("model", type=Path, help="a published student's folder, such as zoo/leap-micro")
    parser.add_argument("--out", type=Path, required=True, help="folder for student.init: weights and card")
    arguments = parser.parse_args()
    place = ModelFolder(arguments.model)
    card = place.card(place.entry())
    file = next(file for file in card.artifacts if file.file == "model_int8.onnx")
    if card.training is None:
        parser.error(f"the card of {card.id} does not name its teacher, whose normalization of pixels the file has")
    config = timm.get_pretrained_cfg(card.training.teacher.name)
    student, projection = restore(card, place.read(card, file), np.array(config.mean), np.array(config.std))
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = {WEIGHTS: save(student, metadata={"format": "pt"}), PROJECTION: save(projection)}
    listed = [File(file=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()]
    for name, data in files.items():
        (arguments.out / name).write_bytes(data)
    content = msgspec.json.encode(msgspec.structs.replace(card, timm=listed))
    (arguments.out / "card.json").write_bytes(content)


def _put(found: dict[str, F64], name: str, pair: Pair) -> None:
    found[f"{name}.weight"], found[f"{name}.bias"] = pair[0].T, pair[1]


def _linears(proto: onnx.ModelProto) -> Iterator[Pair]:
    """The Gemm nodes in the order of the graph, dequantized where they are int8."""
    constants, made = _constants(proto), {node.output[0]: node for node in proto.graph.node}

    def value(name: str) -> F64:
        if name in constants:
            return constants[name]
        node = made[name]
        parts = [value(each) for each in node.input]
        return (
            parts[0] if node.op_type == "Cast" else parts[0] * parts[1]
        )  # Mul, or DequantizeLinear with zero points 0

    return ((value(n.input[1]), value(n.input[2])) for n in proto.graph.node if n.op_type == "Gemm")


def _norms(proto: onnx.ModelProto) -> Iterator[Pair]:
    constants = _constants(proto)
    nodes = (node for node in proto.graph.node if node.op_type == "LayerNormalization")
    return ((constants[node.input[1]], constants[node.input[2]]) for node in nodes)


def _tokens(proto: onnx.ModelProto) -> tuple[F64, F64]:
    """Positions (1, N, D) of the patches, and CLS (1, 1, D) with its own."""
    prefix, positions = sorted((a for a in _constants(proto).values() if a.ndim == 3), key=lambda a: a.shape[1])
    return positions, prefix


def _constants(proto: onnx.ModelProto) -> dict[str, F64]:
    return {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in proto.graph.initializer}


if __name__ == "__main__":
    main()
