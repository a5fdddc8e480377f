"""int8 by NNCF's post-training quantisation with SmoothQuant, on the ONNX graph.

The naive ways lose 5 to 14 points on a trained ViT; random weights hide it. Residual adds, LayerNorm and Softmax stay
float (that is what NNCF's transformer mode does).
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import onnx

from export.onnx import finish

CALIBRATION_PHOTOS = 300


@dataclass(frozen=True)
class Recipe:
    """How to quantise; written into the card.

    smooth_quant_alpha: how much of the activations' range moves into the weights, 0..1.
    preset: `mixed` is unsigned where activations allow it (after Softmax), `performance` symmetric everywhere.
    """

    method: str = "NNCF post-training, transformer, SmoothQuant"
    smooth_quant_alpha: float = 0.95
    preset: str = "mixed"
    fast_bias_correction: bool = True
    photos: int = CALIBRATION_PHOTOS

    def as_dict(self) -> dict[str, object]:
        """Plain values for the card."""
        return asdict(self)


def quantize(
    proto: onnx.ModelProto, calibration: npt.NDArray[np.uint8], recipe: Recipe, metadata: dict[str, str]
) -> onnx.ModelProto:
    """fp32 graph -> int8 graph (QDQ), calibrated on photos uint8 (N, H, W, 3), one at a time."""
    import nncf  # pulls in OpenVINO; only needed here
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    nncf.set_log_level(logging.ERROR)
    source = onnx.ModelProto()
    source.CopyFrom(proto)  # NNCF may edit what it is given
    quantised = nncf.quantize(
        source,
        nncf.Dataset(calibration[:, None], lambda photo: {"image": photo}),
        preset=nncf.QuantizationPreset(recipe.preset),
        subset_size=len(calibration),
        fast_bias_correction=recipe.fast_bias_correction,
        model_type=nncf.ModelType.TRANSFORMER,
        target_device=nncf.TargetDevice.CPU,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=recipe.smooth_quant_alpha)
        ),
    )
    return finish(quantised, metadata)
