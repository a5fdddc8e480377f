"""The files of a student: their formats and precisions, their names, and how they were built."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Final

from export import onnx_writer, openvino
from export.formats import executorch
from leap_zoo.card import Artifact, File, Format, Precision

Kind = tuple[Format, Precision]

# The suffixes that browser and hub users expect. An IR's weights are in a .bin of the same name.
NAMES: Final[dict[Kind, str]] = {
    ("onnx", "fp32"): "model.onnx",
    ("onnx", "fp16"): "model_fp16.onnx",
    ("onnx", "int8"): "model_int8.onnx",
    ("openvino", "fp16"): "model_fp16.xml",
    ("openvino", "int8"): "model_int8.xml",
    ("executorch", "fp32"): "model.pte",
    ("executorch", "int8"): "model_int8.pte",
}
DEFAULT: Final[tuple[Kind, ...]] = tuple(kind for kind in NAMES if kind[0] != "executorch")  # an extra


@dataclass(frozen=True)
class Built:
    """One artifact, as bytes: one file, or an IR's .xml and .bin. `recipe`: how it was quantized; None for floats."""

    kind: Kind
    contents: tuple[bytes, ...]
    recipe: dict[str, object] | None = None
    tools: tuple[str, ...] = field(default=("torch", "timm", "onnx"))

    @cached_property
    def artifact(self) -> Artifact:
        """The card's entry for these files; the gate adds its metrics."""
        form, precision = self.kind
        name = NAMES[self.kind]
        first = file_of(name, self.contents[0])
        writer = {"onnx": onnx_writer, "openvino": openvino, "executorch": executorch}[form]
        return Artifact(
            file=first.file,
            bytes=first.bytes,
            sha256=first.sha256,
            precision=precision,
            format=form,
            weights=file_of(name.replace(".xml", ".bin"), self.contents[1]) if form == "openvino" else None,
            opset=onnx_writer.OPSET if form == "onnx" else None,
            ir=writer.IR,
            minimum_runtime=writer.MINIMUM_RUNTIME,
            tools={tool: version(tool) for tool in self.tools},
            quantisation=self.recipe,
        )

    def read(self, file: File) -> bytes:
        """The bytes of one of its files, by the card's entry."""
        return self.contents[0] if file.file == NAMES[self.kind] else self.contents[1]


def file_of(name: str, content: bytes) -> File:
    """The card's entry for a file."""
    return File(file=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
