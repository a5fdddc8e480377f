"""The ways to int8 that a search tries, the most promising of each format first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from export import fp16, general, names, onnx, openvino, quantize
from export.built import Built
from export.search import Way
from export.weights import Weights

ONNX_RECIPES = {
    "smooth .5, split heads": quantize.Recipe(),
    "smooth .5": quantize.Recipe(split_heads=False),
    "smooth .75, split heads": quantize.Recipe(smooth_quant_alpha=0.75),
    "smooth .25, split heads": quantize.Recipe(smooth_quant_alpha=0.25),
    "no smoothing, split heads": quantize.Recipe(smooth_quant_alpha=0.0),
    "smooth .5, 7-bit weights": quantize.Recipe(weight_bits=7),
    "smooth .5, signed activations (S8S8)": quantize.Recipe(signed=True),
}
OPENVINO_RECIPES = {
    "NNCF, smooth .95, performance": openvino.Recipe(),
    "NNCF, smooth .95, mixed": openvino.Recipe(preset="mixed"),
    "NNCF, smooth .75, performance": openvino.Recipe(smooth_quant_alpha=0.75),
    "NNCF, smooth .5, performance": openvino.Recipe(smooth_quant_alpha=0.5),
    "NNCF, smooth .95, full bias correction": openvino.Recipe(fast_bias_correction=False),
    "NNCF, no smoothing": openvino.Recipe(smooth_quant_alpha=-1.0),
}


class Ways:
    """Ways to quantise these weights, calibrated on photos uint8 (N, H, W, 3)."""

    def __init__(self, weights: Weights, photos: npt.NDArray[np.uint8], metadata: dict[str, str]) -> None:
        self._weights, self._photos, self._metadata = weights, photos, metadata
        self.calibrated = cache(lambda alpha: quantize.calibrate(weights, photos, alpha))

    def onnx(self, worst: list[str]) -> Iterator[Way]:
        """For ONNX Runtime. worst: the layers that suffer most; three ways leave some of them float."""
        recipes = dict(ONNX_RECIPES)
        for count in (1, 2, 6):
            name = f"{count} worst layers float" if count > 1 else "worst layer float"
            recipes[f"smooth .5, {name}"] = quantize.Recipe(float_layers=tuple(worst[:count]))
        for name, recipe in recipes.items():
            yield Way(name, "onnx", recipe.as_dict(), lambda recipe=recipe: self._onnx(recipe))
        for name, method in general.METHODS.items():
            yield Way(name, "onnx", {"method": name}, lambda method=method, name=name: self._general(method, name))

    def openvino(self) -> Iterator[Way]:
        """For OpenVINO; last, the file that ONNX Runtime runs, converted."""
        for name, recipe in OPENVINO_RECIPES.items():
            yield Way(name, "openvino", recipe.as_dict(), lambda recipe=recipe: self._openvino(recipe))
        same = replace(quantize.Recipe(), split_heads=False)
        yield Way("the ONNX file, converted", "openvino", same.as_dict(), lambda: self._converted(same))

    def _onnx(self, recipe: quantize.Recipe) -> Built:
        proto = fp16.build(quantize.quantize(self.calibrated(recipe.smooth_quant_alpha), recipe))
        data = onnx.finish(names.shorten(proto), self._metadata).SerializeToString(deterministic=True)
        return Built(("onnx", "int8"), (data,), recipe.as_dict())

    def _general(self, method: general.Method, name: str) -> Built:
        proto = method(onnx.write(self._weights).proto, self._photos)
        data = onnx.finish(proto, self._metadata).SerializeToString(deterministic=True)
        return Built(("onnx", "int8"), (data,), {"method": name}, ("torch", "timm", "onnx", "nncf", "onnxruntime"))

    def _openvino(self, recipe: openvino.Recipe) -> Built:
        model = openvino.convert(onnx.write(self._weights, "tokens").proto)
        return self._ir(openvino.quantize(model, self._photos, recipe), recipe.as_dict(), "nncf")

    def _converted(self, recipe: quantize.Recipe) -> Built:
        proto = quantize.quantize(self.calibrated(recipe.smooth_quant_alpha), recipe)
        return self._ir(openvino.convert(proto), recipe.as_dict())

    def _ir(self, model: object, recipe: dict[str, object], *tools: str) -> Built:
        files = openvino.serialize(model, self._metadata, fp16=False)
        return Built(("openvino", "int8"), files, recipe, ("torch", "timm", "onnx", "openvino", *tools))
