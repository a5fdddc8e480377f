"""The same student in PyTorch, built by timm, to be measured beside the published files.

It is a `Session`, so `Model` wraps it as it wraps a file: both are timed with the same work around them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from leap_zoo.bench.peer_weights import GREY, SPACE, Weights
from leap_zoo.card import Architecture, Artifact, ModelCard
from leap_zoo.errors import ArtifactRefused, InvalidArgument, MissingExtra
from leap_zoo.model import Model
from leap_zoo.runtime import Signature, refused

TOLERANCE = 1e-3  # largest absolute difference to the fp32 file, on every output
_CHECKED_PHOTOS = 3


class TorchSession:
    """timm's `VisionTransformer` with a student's weights, eager or compiled, as a `Session` on the CPU.

    weights: what `leap_zoo.bench.peer_weights.read_weights` gave. Raises MissingExtra, InvalidArgument.
    """

    def __init__(
        self, card: ModelCard, artifact: Artifact, weights: Weights, threads: int, *, compiled: bool = False
    ) -> None:
        torch, vision_transformer = _import("torch"), _import("timm.models.vision_transformer")
        if card.architecture is None:
            raise InvalidArgument(f"the card of {card.id} does not say its architecture: export it again")
        self._torch = torch
        self._artifact = artifact
        self.runtime = f"torch {torch.__version__.split('+')[0]} {'compiled' if compiled else 'eager'}"
        self.threads = threads
        self._names = [tensor.name for tensor in card.outputs]
        tensors = {name: torch.from_numpy(np.array(values)) for name, values in weights.items()}
        student = _student(vision_transformer, card.architecture, card.preprocessing.size, tensors)
        self.forward = _forward(torch, student, tensors, card, self._names)
        if compiled:
            # Another number of threads or photos is another compilation; past the limit torch would go on uncompiled.
            _import("torch._dynamo.config").recompile_limit = 256
            _import("torch._inductor.config").force_disable_caches = True  # what compiling costs, each time
            warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no CUDA here, and none needed
            self.forward = torch.compile(self.forward, dynamic=False)
        size = card.preprocessing.size
        self.inputs: Signature = {"image": ("uint8", (None, size, size, 3))}
        self.outputs: Signature = {
            tensor.name: (tensor.dtype, tuple(axis if isinstance(axis, int) else None for axis in tensor.shape))
            for tensor in card.outputs
        }

    def run(self, image: npt.NDArray[np.uint8], outputs: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        """See `Session.run`. Like a file, it computes all outputs, whichever are asked for."""
        torch = self._torch
        if torch.get_num_threads() != self.threads:  # one number for the whole process: set by whose turn it is
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                found = dict(zip(self._names, self.forward(torch.from_numpy(image)), strict=True))
                return [found[name].numpy() for name in outputs]
        except Exception as error:  # without a C++ compiler, torch.compile fails here
            raise refused(self.runtime, "run", self._artifact, error) from error


def check_peer(peer: Model, file: Model) -> float:
    """Largest absolute difference of the peer's outputs to those of the fp32 file. Raises ArtifactRefused above 1e-3.

    Another model may be faster for another reason: what is timed must be the same student.
    """
    size = file.card.preprocessing.size
    photos = np.random.default_rng(0).integers(0, 256, (_CHECKED_PHOTOS, size, size, 3), dtype=np.uint8)
    names = [tensor.name for tensor in file.card.outputs]
    ours, theirs = peer.run(photos, names), file.run(photos, names)
    worst = max(names, key=lambda name: _difference(ours[name], theirs[name]))
    difference = _difference(ours[worst], theirs[worst])
    if not difference <= TOLERANCE:
        raise ArtifactRefused(
            f"{peer.session.runtime} differs from {file.artifact.file} by {difference:.2g} on {worst} (at most "
            f"{TOLERANCE:g} is allowed), so it is not the same student: it was not timed; bench without --against"
        )
    return difference


def _difference(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    difference = float(np.abs(ours - theirs).max())
    return difference if np.isfinite(difference) else float("inf")


def _student(vision_transformer: Any, shape: Architecture, size: int, tensors: dict[str, Any]) -> Any:
    student = vision_transformer.VisionTransformer(
        img_size=size,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp_ratio,
        reg_tokens=shape.registers,
        init_values=1.0 if shape.layer_scale else None,
        num_classes=0,
    )
    try:
        student.load_state_dict({name: tensors[name] for name in student.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise InvalidArgument(
            f"this version of timm builds another student ({' '.join(str(error).split())[:200]}): update timm"
        ) from error
    return student.eval()


def _forward(
    torch: Any, student: Any, tensors: dict[str, Any], card: ModelCard, names: list[str]
) -> Callable[[Any], list[Any]]:
    """image uint8 (B, H, W, 3) -> the outputs `names`, in that order, as the deployed graph has them."""
    linear = torch.nn.functional.linear
    shape = card.architecture
    prefix = 1 if shape is None else 1 + shape.registers
    pooling = "cls" if shape is None else shape.pooling
    features_of = {key.split("/")[1].rsplit(".", 1)[0]: key.split("/")[0] for key in tensors if "/" in key}

    def forward(image: Any) -> list[Any]:
        pixels = image.permute(0, 3, 1, 2).float() * (1 / 255) - GREY / 255  # (B, 3, H, W)
        tokens = student.forward_features(pixels)  # (B, prefix + N, D_s)
        cls = tokens[:, 0]
        embedding = cls if pooling == "cls" else tokens[:, prefix:].mean(1)  # (B, D_s)
        teacher = linear(cls, tensors[f"{SPACE}.weight"], tensors[f"{SPACE}.bias"])  # (B, D_t)
        inputs = {"embedding": embedding, "cls": cls, "teacher": teacher}
        found = {name: torch.nn.functional.normalize(inputs[key], dim=1) for name, key in _UNIT.items()}
        for name, key in features_of.items():
            found[name] = linear(inputs[key], tensors[f"{key}/{name}.weight"], tensors[f"{key}/{name}.bias"])
        return [found[name] for name in names]

    return forward


_UNIT = {"embedding": "embedding", "teacher_embedding": "teacher"}


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f'--against needs torch and timm ({error}): pip install "leap-zoo[train]", or bench without it'
        ) from error
