"""LEAP Zoo: small vision transformers, distilled by LEAP, for the edge.

    import leap_zoo

    model = leap_zoo.load("leap-tiny")
    model.classify("photo.jpg", top=3)   # [Prediction(label, score, index), ...]
    model.embed(["a.jpg", "b.jpg"])      # float32 (2, D), L2-normalized
    head = leap_zoo.fit(model, "flowers/").head           # a folder of photos per class
    model.classify("photo.jpg", head=head)

Needs numpy, Pillow, msgspec and ONNX Runtime (imported by the first `load`); never torch. Its names are imported with
their first use.

How to read the code: a photo becomes logits in `preprocess` (with `decode`) -> `model` -> `runtime`, and `loading`
finds the model. `pull` chooses files, `download` fetches them from servers, and `store` keeps them and checks each one
(index -> card -> file).
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers read it; `typing` takes longer to import than everything here
if TYPE_CHECKING:
    from typing import Any

    from leap_zoo.card import ModelCard
    from leap_zoo.embeddings import Embeddings, embed_folder
    from leap_zoo.errors import (
        ArtifactCorrupt,
        ArtifactRefused,
        CacheUnusable,
        DownloadFailed,
        ImageError,
        ImageTooLarge,
        InvalidArgument,
        InvalidCard,
        InvalidGallery,
        InvalidHead,
        LeapZooError,
        MissingExtra,
        NotAnImage,
        NotPulled,
        NotSigned,
        ServiceFailed,
        ServiceRefused,
        UndecodableImage,
        UnknownHead,
        UnknownModel,
        UnknownSpace,
        UnreadableFile,
    )
    from leap_zoo.fitting import fit
    from leap_zoo.heads import CustomHead
    from leap_zoo.loading import load
    from leap_zoo.model import Model, Prediction, Predictions
    from leap_zoo.store import models

__version__ = "0.2.0"

__all__ = [
    "ArtifactCorrupt",
    "ArtifactRefused",
    "CacheUnusable",
    "CustomHead",
    "DownloadFailed",
    "Embeddings",
    "ImageError",
    "ImageTooLarge",
    "InvalidArgument",
    "InvalidCard",
    "InvalidGallery",
    "InvalidHead",
    "LeapZooError",
    "MissingExtra",
    "Model",
    "ModelCard",
    "NotAnImage",
    "NotPulled",
    "NotSigned",
    "Prediction",
    "Predictions",
    "ServiceFailed",
    "ServiceRefused",
    "UndecodableImage",
    "UnknownHead",
    "UnknownModel",
    "UnknownSpace",
    "UnreadableFile",
    "__version__",
    "embed_folder",
    "fit",
    "load",
    "models",
]

_MODULE_OF = {
    "CustomHead": "heads",
    "Embeddings": "embeddings",
    "Model": "model",
    "ModelCard": "card",
    "Prediction": "model",
    "Predictions": "model",
    "embed_folder": "embeddings",
    "fit": "fitting",
    "load": "loading",
    "models": "store",
}


def __getattr__(name: str) -> Any:
    """A public name or a module of this package, imported when it is first used (PEP 562)."""
    from importlib import import_module

    if name in __all__:
        value = getattr(import_module(f"leap_zoo.{_MODULE_OF.get(name, 'errors')}"), name)
        globals()[name] = value
        return value
    try:
        if not name.startswith("_"):
            return import_module(f"leap_zoo.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"leap_zoo.{name}":
            raise
    raise AttributeError(f"module 'leap_zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
