"""LEAP Zoo: small vision transformers, distilled by LEAP, for the edge.

    import leap_zoo

    model = leap_zoo.load("leap-nano")
    model.classify("photo.jpg", top=3)   # [Prediction(label, score, index), ...]
    model.embed(["a.jpg", "b.jpg"])      # float32 (2, D), L2-normalised

Needs numpy, Pillow, msgspec and ONNX Runtime (imported by the first `load`); never torch.
"""

from leap_zoo.card import ModelCard
from leap_zoo.errors import (
    ArtifactCorrupt,
    ArtifactRefused,
    ImageError,
    ImageTooLarge,
    InvalidArgument,
    InvalidCard,
    InvalidGallery,
    LeapZooError,
    MissingExtra,
    NotAnImage,
    UndecodableImage,
    UnknownHead,
    UnknownModel,
    UnknownSpace,
    UnreadableFile,
)
from leap_zoo.model import Model, Prediction, load
from leap_zoo.registry import models

__version__ = "0.1.0"

__all__ = [
    "ArtifactCorrupt",
    "ArtifactRefused",
    "ImageError",
    "ImageTooLarge",
    "InvalidArgument",
    "InvalidCard",
    "InvalidGallery",
    "LeapZooError",
    "MissingExtra",
    "Model",
    "ModelCard",
    "NotAnImage",
    "Prediction",
    "UndecodableImage",
    "UnknownHead",
    "UnknownModel",
    "UnknownSpace",
    "UnreadableFile",
    "__version__",
    "load",
    "models",
]
