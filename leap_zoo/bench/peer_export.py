"""The same student as PyTorch's own exporter writes it, on ONNX Runtime: the file that one has without this package."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

from leap_zoo.bench.peer import TorchSession
from leap_zoo.card import Artifact, ModelCard
from leap_zoo.errors import ArtifactRefused, MissingExtra
from leap_zoo.runtime import OnnxSession

SUFFIX = "torch.onnx.export"


class ExportedSession(OnnxSession):
    """What `torch.onnx.export` makes of a peer, with a dynamic batch, as a `Session`. Raises MissingExtra."""

    def __init__(self, card: ModelCard, artifact: Artifact, peer: TorchSession, threads: int) -> None:
        super().__init__(_export(card, artifact, peer), artifact, threads)
        self.runtime = f"{self.runtime} {SUFFIX}"


def _export(card: ModelCard, artifact: Artifact, peer: TorchSession) -> bytes:
    try:
        import onnxscript  # noqa: F401, torch's exporter needs it and asks in many lines
        import torch
    except ImportError as error:
        raise MissingExtra(
            f'--against torch-onnx needs onnxscript ({error}): pip install "leap-zoo[export]", or bench without it'
        ) from error

    class Graph(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(peer.forward(image))

    size = card.preprocessing.size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), quiet[0], quiet[1]:
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Graph().eval(),
            (example,),
            input_names=["image"],
            output_names=[tensor.name for tensor in card.outputs],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            dynamo=True,
        )
    if program is None:
        raise ArtifactRefused(f"torch.onnx.export gave nothing for {artifact.file}: bench without --against torch-onnx")
    data: bytes = program.model_proto.SerializeToString()
    return data
