"""int8 gives the same answers on every processor, also where ONNX Runtime's default kernels cut off sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_export import unfused

import leap_zoo
from leap_zoo.store import BUNDLED

FILES = sorted(BUNDLED.glob("*/model_int8.onnx"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_shipped__answers_as_if_computed_in_float(file: Path) -> None:
    """Without VNNI, the default kernels gave cosines as low as .93."""
    model = leap_zoo.load(file.parent.name, zoo=BUNDLED, threads=1)
    with np.load(file.with_name("golden.npz"), allow_pickle=False) as golden:
        image = golden["image"]
    (expected,) = unfused(file.read_bytes()).run(["embedding"], {"image": image})
    cosines = (model.run(image, ["embedding"])["embedding"] * expected).sum(1)
    assert cosines.min() > 0.99  # rounding decides some steps of quantization


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_shipped__each_weight_has_its_own_zero_points(file: Path) -> None:
    """ONNX Runtime's exact kernels do not load shared ones; a processor with VNNI would not notice."""
    graph = onnx.load(file).graph
    int8 = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    reads = [name for node in graph.node for name in node.input if name in int8]
    assert len(reads) == len(set(reads)) > 90  # weights and zero points of about 50 linears
