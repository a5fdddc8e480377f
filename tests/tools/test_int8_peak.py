"""tools.int8_peak: the arithmetic is the student's, the product is int8, and the table divides the one by the other."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from msgspec.structs import replace
from torch.utils.flop_counter import FlopCounterMode
from whole_card import whole_card

from export import text
from leap_zoo.card import Architecture, EmbeddingDims, Preprocessing
from tools.int8_peak import REPEATS, operations, product
from train.research.results import Result

timm = pytest.importorskip("timm", reason="the train extra is not installed")


@pytest.mark.parametrize("pooling", ["cls", "patch_mean"])
def test_operations__are_those_that_torch_counts(pooling: str) -> None:
    shape = Architecture(
        patch=16, width=48, depth=3, heads=3, mlp_ratio=3.0, registers=2, layer_scale=False, pooling=pooling
    )
    card = replace(
        whole_card(),
        preprocessing=Preprocessing(size=96, short_side=96),
        architecture=shape,
        embedding_dims=EmbeddingDims(student=48, teacher=64),
    )
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=96, patch_size=16, embed_dim=48, depth=3, num_heads=3, mlp_ratio=3, reg_tokens=2, num_classes=0
    ).eval()
    for block in vit.blocks:
        block.attn.fused_attn = False
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        vit.forward_features(torch.zeros(1, 3, 96, 96))
    projection = 2 * 64 * (48 + sum(len(head.labels) for head in card.heads))
    if pooling == "patch_mean":
        assert operations(card) == counter.get_total_flops() + projection
    else:  # of the last block only one of 39 tokens is asked for
        assert 0.7 * counter.get_total_flops() < operations(card) < counter.get_total_flops()


def test_product__is_int8_and_right() -> None:
    graph = onnx.load_from_string(product(4, 8, 16)).graph
    assert [node.op_type for node in graph.node].count("Gemm") == REPEATS
    assert {tensor.data_type for tensor in graph.initializer if tensor.name.startswith("weight")} == {
        onnx.TensorProto.INT8
    }
    session = onnxruntime.InferenceSession(product(4, 8, 16), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.zeros((4, 8), np.float32)})
    np.testing.assert_array_equal(found, np.zeros((4, 8)))


def test_table__has_the_share_and_the_instruction_set() -> None:
    figures = {
        "GOP of a photo": 1.0,
        "fastest CPU ms of a photo": 20.0,
        "GOP/s of a plain int8 product": 100.0,
    }
    rows = [
        Result(subject="leap-made-up", variant="model_int8.onnx", metric=metric, value=value, commit="0123abc",
               hardware="a CPU (avx2), onnxruntime 1.32.0")
        for metric, value in figures.items()
    ]  # fmt: skip
    page = text.render("int8_peak.md", results=lambda _: rows)
    assert "| leap-made-up | `model_int8.onnx` | 1.00 | 20.00 | 50 | 100 | 50 | a CPU (avx2), onnxruntime" in page
