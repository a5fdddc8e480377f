"""The deployed student as an ExecuTorch program (.pte) for phones: one file, run by XNNPACK's kernels.

Input and outputs are the same as in the other files. A program does not name its outputs, so its method `leap_zoo`
returns JSON: their names, and the metadata that the other files have.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from export.golden import draw
from export.graph import DeployedStudent
from leap_zoo.errors import import_extra

IR = 12  # of the program's identifier, `ET12`
MINIMUM_RUNTIME = "1.5"  # the only one that was tried
MOST_PHOTOS = 8  # photos per call: memory is planned for this many in advance
INT8: dict[str, object] = {"method": "XNNPACK, int8 weights per channel, activations quantized at run time"}
TOOLS = ("torch", "timm", "executorch", "torchao")


def build(model: DeployedStudent, metadata: Mapping[str, str], *, int8: bool) -> bytes:
    """The program; the same student and versions give the same bytes. Raises MissingExtra without the extra.

    int8: linears only; their inputs are quantized at run time, so no photos are needed for calibration.
    """
    import_extra("executorch.exir", "executorch")
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    photos = torch.from_numpy(draw(model.student.patch_embed.img_size[0])[:2])
    sizes = ({0: torch.export.Dim("batch", min=1, max=MOST_PHOTOS)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of torch
        program = torch.export.export(model, (photos,), dynamic_shapes=sizes)
        partitioners = [XnnpackPartitioner()]
        if int8:
            program = torch.export.export(_quantised(program.module(), photos), (photos,), dynamic_shapes=sizes)
            dynamic = XnnpackPartitioner(config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True)
            partitioners.insert(0, dynamic)
        about = json.dumps({**metadata, "outputs": model.names})
        edge = to_edge_transform_and_lower(program, partitioner=partitioners, constant_methods={"leap_zoo": about})
        return bytes(edge.to_executorch().buffer)


def _quantised(graph: Any, photos: torch.Tensor) -> Any:
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    how = xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    graph = prepare_pt2e(graph, xnnpack.XNNPACKQuantizer().set_global(how))
    graph(photos)
    return convert_pt2e(graph)
