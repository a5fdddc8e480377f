"""A student in PyTorch as a `Session`: `Model` wraps it as it wraps a file, so both are timed with the same work."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from export.formats.timm import TimmStudent
from leap_zoo.card import Artifact, ModelCard
from leap_zoo.runtime import OnnxSession, Signature
from leap_zoo.store import Zoo


class TorchSession:
    """timm's model of the published weights, projection and heads included, eager, on the CPU."""

    def __init__(self, place: Zoo, card: ModelCard, threads: int) -> None:
        self.student = TimmStudent(card, partial(place.read, card))
        self.threads = threads
        self.runtime = f"torch {torch.__version__.split('+')[0]} eager"
        tensors = [*card.inputs, *card.outputs]
        signature: Signature = {
            tensor.name: (tensor.dtype, tuple(axis if isinstance(axis, int) else None for axis in tensor.shape))
            for tensor in tensors
        }
        self.inputs, self.outputs = {"image": signature["image"]}, signature

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`. Like a file, it computes all outputs, whichever are asked for."""
        if torch.get_num_threads() != self.threads:  # one number for the whole process: set by whose turn it is
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            found = dict(zip(self.student.names, self.student(torch.from_numpy(image)), strict=True))
            return [found[name].numpy() for name in outputs]


class ExportedSession(OnnxSession):
    """What `torch.onnx.export` makes of the student, with a dynamic batch, on ONNX Runtime."""

    def __init__(self, card: ModelCard, artifact: Artifact, peer: TorchSession, threads: int) -> None:
        super().__init__(_export(card, peer.student), artifact, threads)
        self.runtime = f"{self.runtime} torch.onnx.export"


def _export(card: ModelCard, student: TimmStudent) -> bytes:
    size = card.preprocessing.size
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), quiet[0], quiet[1]:
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            student,
            (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
            input_names=["image"],
            output_names=student.names,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            dynamo=True,
        )
    return program.model_proto.SerializeToString()
